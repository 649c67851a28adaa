// Colors of numbers, in the light and the dark scheme. Blue and vermillion can be told apart with any color vision.

const root = () => getComputedStyle(document.documentElement);

/** Return a color of the style sheet as [r, g, b]. */
function color(name) {
  const text = root().getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

const mix = (a, b, share) => a.map((x, i) => Math.round(x + (b[i] - x) * share));

/** Return a function from a number, and the largest absolute value, to a color: blue if negative, vermillion if positive. */
export function diverging(largest) {
  const [zero, negative, positive] = [color("chart-background"), color("chart-training"), color("chart-validation")];
  return (x) => mix(zero, x < 0 ? negative : positive, largest > 0 ? Math.sqrt(Math.min(1, Math.abs(x) / largest)) : 0);
}

/** Return a function from a number of at least 0, and the largest one, to a shade of blue. */
export function sequential(largest) {
  const [zero, full] = [color("chart-background"), color("chart-training")];
  return (x) => mix(zero, full, largest > 0 ? Math.sqrt(Math.min(1, Math.max(0, x) / largest)) : 0);
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** Return the color of text on a color. */
export const ink = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111111" : "#ffffff");

const BOUNDS = [0.5, 1, 2, 4, 8];

/** Return the level of surprise, 0 to 5, as in the reports. */
export const level = (bits) => BOUNDS.filter((bound) => bits >= bound).length;

/** Call a function when the color scheme changes. */
export const onScheme = (call) => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", call);

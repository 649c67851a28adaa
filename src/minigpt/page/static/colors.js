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

/** Return the color of text on a color, black or white, whichever has more contrast (WCAG's relative luminance). */
export function ink(color) {
  const [r, g, b] = color.map((x) => (x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

const BOUNDS = [0.5, 1, 2, 4, 8];

/** Return the level of surprise, 0 to 5, as in the reports. */
export const level = (bits) => BOUNDS.filter((bound) => bits >= bound).length;

const drawn = new Set();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  drawn.forEach((reference) => reference.deref()?.redraw() ?? drawn.delete(reference)),
);

/** Call `redraw` of an object when the color scheme changes, as long as the object is in use. */
export function onScheme(object) {
  for (const reference of drawn) if (!reference.deref()) drawn.delete(reference);
  drawn.add(new WeakRef(object));
}

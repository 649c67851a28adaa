// Elements, numbers and arrays.

/** Return an element. Attributes that start with "on" are listeners; null and false leave an attribute or a child out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Return an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Return the element of MathML that a text describes. */
export function math(text) {
  return document.importNode(new DOMParser().parseFromString(text, "application/xml").documentElement, true);
}

/** Replace the children of an element. If one with a data-key has the focus, its successor with the same key gets it. */
export function fill(element, ...children) {
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  if (key !== undefined)
    [...element.querySelectorAll("[data-key]")].find((child) => child.dataset.key === key)?.focus();
  return element;
}

/** Return a number with so many significant digits, in the form that is shortest to read. */
export function number(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) {
    const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
    return `${String(Number(mantissa)).replace("-", "−")} × 10${superscript(Number(exponent))}`;
  }
  const text = size >= 1000 ? Math.round(x).toLocaleString("en-US") : String(Number(x.toPrecision(digits)));
  return text.replace("-", "−");
}

function superscript(n) {
  const digits = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  return [...String(n)].map((digit) => digits[digit]).join("");
}

export const integer = (n) => n.toLocaleString("en-US");
export const percent = (p) =>
  p >= 0.0995 ? `${(100 * p).toFixed(0)}%` : p >= 0.001 ? `${(100 * p).toFixed(1)}%` : p > 0 ? "< 0.1%" : "0%";

/** Return a number of bits with its unit. */
export const inBits = (x) => (x < 0.001 ? "less than 0.001 bits" : number(x) === "1" ? "1 bit" : `${number(x)} bits`);

/** Return a token as it is shown where spaces matter. */
export function visible(token) {
  return token === "" ? "∅" : token.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/** Return an array of the server: its shape, and its elements in one list. */
export function tensor({ shape, data, bytes, largest }) {
  const text = atob(data ?? bytes);
  const buffer = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const values =
    data === undefined ? Float32Array.from(buffer, (byte) => (byte / 255) * largest) : new Float32Array(buffer.buffer);
  return { shape, values };
}

/** Return one matrix of an array of matrices: {rows, columns, values}. */
export function matrix({ shape, values }, ...indices) {
  const [rows, columns] = shape.slice(-2);
  let offset = 0;
  indices.forEach((index, axis) => (offset = offset * shape[axis] + index));
  return { rows, columns, values: values.subarray(offset * rows * columns, (offset + 1) * rows * columns) };
}

/** Say something to readers of the screen. */
export function announce(text) {
  const status = document.getElementById("status");
  if (status) status.textContent = text;
}

/** Return a function that calls another one once it has not been called for some milliseconds. */
export function afterPause(milliseconds, call) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}

// Matrices as pictures whose numbers can be read.

import { css, diverging, ink, onScheme, sequential } from "./colors.js";
import { fill, h, number } from "./dom.js";

/** Draw a matrix {rows, columns, values} on a canvas, one pixel for each number. The style sheet enlarges it. */
export function draw(canvas, { rows, columns, values }, { signed = false, largest = null } = {}) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const top = largest ?? values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const colorOf = (signed ? diverging : sequential)(top);
  values.forEach((x, i) => image.data.set([...colorOf(x), 255], 4 * i));
  context.putImageData(image, 0, 0);
}

/**
 * A matrix as a picture with a cursor: the mouse or the arrow keys move it, and a line below says what is there.
 * `describe(row, column, value)` returns that line; `onChoose(row, column)` is called for a click or Enter. `rowNames(row)` returns
 * the name of a row, if the rows have names.
 */
export class Heat {
  constructor(label, describe, onChoose = () => {}, rowNames = null) {
    this.describe = describe;
    this.onChoose = onChoose;
    this.cursor = null;
    this.canvas = h("canvas", { class: "heat-canvas" });
    this.mark = h("span", { class: "heat-mark", hidden: true });
    this.line = h("p", { class: "heat-line", "aria-live": "polite" }, "\u00a0");
    this.frame = h(
      "div",
      {
        class: "heat-frame",
        tabindex: "0",
        "data-key": label,
        role: "application",
        "aria-roledescription": "picture of a matrix",
        "aria-label": `${label}. Use the arrow keys to read its numbers and Enter to choose one.`,
        onmousemove: (event) => this.move(this.under(event)),
        onmouseleave: () => this.move(null),
        onclick: (event) => this.onChoose(...this.under(event)),
        onkeydown: (event) => this.key(event),
        onblur: () => this.move(null),
      },
      this.canvas,
      this.mark,
    );
    this.names = rowNames && h("div", { class: "heat-names", "aria-hidden": "true" });
    this.rowNames = rowNames;
    this.element = h(
      "div",
      { class: "heat" },
      this.names ? h("div", { class: "heat-named" }, this.names, this.frame) : this.frame,
      this.line,
    );
    onScheme(this);
  }

  redraw() {
    if (this.matrix && this.element.isConnected) this.show(this.matrix, this.options);
  }

  show(matrix, options = {}) {
    Object.assign(this, { matrix, options });
    draw(this.canvas, matrix, options);
    if (this.names)
      fill(
        this.names,
        Array.from({ length: matrix.rows }, (_, row) => h("span", {}, this.rowNames(row))),
      );
    this.frame.style.setProperty("--ratio", matrix.columns / matrix.rows);
    if (this.cursor) this.move(this.cursor);
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const { rows, columns } = this.matrix;
    const at = (position, size, n) => Math.max(0, Math.min(n - 1, Math.floor((position / size) * n)));
    return [at(event.clientY - box.top, box.height, rows), at(event.clientX - box.left, box.width, columns)];
  }

  move(cursor) {
    const { rows, columns, values } = this.matrix;
    this.cursor = cursor && cursor[0] < rows && cursor[1] < columns ? cursor : null;
    this.mark.hidden = !this.cursor;
    if (!this.cursor) {
      this.line.textContent = "\u00a0";
      return;
    }
    const [row, column] = this.cursor;
    Object.assign(this.mark.style, {
      left: `${(100 * column) / columns}%`,
      top: `${(100 * row) / rows}%`,
      width: `${100 / columns}%`,
      height: `${100 / rows}%`,
    });
    this.line.textContent = this.describe(row, column, values[row * columns + column]);
  }

  key(event) {
    const [row, column] = this.cursor ?? [0, 0];
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key in moves) {
      const [down, right] = this.cursor ? moves[event.key] : [0, 0];
      const { rows, columns } = this.matrix;
      this.move([Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + right))]);
    } else if (event.key === "Enter" && this.cursor) this.onChoose(row, column);
    else return;
    event.preventDefault();
  }
}

/** Return a number in few characters. */
const short = (x) => (x !== 0 && Math.abs(x) < 1e-3 ? x.toExponential(1).replaceAll("-", "−") : number(x));

/** Return a table of numbers on their colors. `onChoose(row, column)` makes buttons of them. */
export function numberTable({ rows, columns, values }, largest, firstRow, firstColumn, chosen, onChoose) {
  const colorOf = diverging(largest);
  const cell = (row, column) => {
    const x = values[row * columns + column];
    const color = colorOf(x);
    const button = h(
      "button",
      {
        type: "button",
        "aria-pressed": String(chosen(row, column)),
        "data-key": `${firstRow + row}, ${firstColumn + column}`,
        onclick: () => onChoose(row, column),
      },
      short(x),
    );
    Object.assign(button.style, { background: css(color), color: ink(color) });
    return h("td", {}, button);
  };
  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const head = h(
    "tr",
    {},
    h("td"),
    range(columns).map((column) => h("th", { scope: "col" }, firstColumn + column)),
  );
  const body = range(rows).map((row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, firstRow + row),
      range(columns).map((column) => cell(row, column)),
    ),
  );
  return fill(h("table", { class: "numbers" }), h("thead", {}, head), h("tbody", {}, body));
}

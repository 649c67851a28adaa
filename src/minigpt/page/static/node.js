// What a node computes: its formula, its derivative, its code, its arrays, and the proof of any number in them.

import { ask, latest } from "./api.js";
import { fill, h, integer, math, number, tensor } from "./dom.js";
import { term } from "./glossary.js";
import { Heat, numberTable } from "./heat.js";

const READABLE = { rows: 12, columns: 10 };
const ZOOM = 4;
const AMOUNTS = [0.001, 0.01, 0.1, -0.001];

/** The panel of the node that is chosen in the diagram. */
export class NodePanel {
  constructor(view) {
    this.view = view;
    this.run = latest((error) => fill(this.arrays, h("p", { class: "error", role: "alert" }, error.message)));
    this.runNudge = latest((error) => fill(this.proof, h("p", { class: "error", role: "alert" }, error.message)));
    this.explained = new Map();
    this.head = h("div");
    this.arrays = h("div");
    this.proof = h("div", { class: "proof", role: "status" });
    this.element = h("div", { class: "node-panel" }, this.head, this.arrays);
  }

  async show(node, block) {
    const fresh = this.node !== node.name || this.block !== block;
    Object.assign(this, { node: node.name, kind: node.kind, block });
    if (fresh)
      Object.assign(this, {
        shown: this.arrayName(node),
        index: 0,
        zooms: [],
        chosen: null,
        parameters: node.parameters.map((name) => name.replace("{i}", block)),
      });
    this.explain(node);
    this.load();
  }

  arrayName(node) {
    return node.name.replace("{i}", this.block);
  }

  async explain(node) {
    if (!this.explained.has(node.kind)) this.explained.set(node.kind, ask(`explain/${node.kind}`));
    const found = await this.explained
      .get(node.kind)
      .catch((error) => ({ title: node.title, meaning: error.message, code: [] }));
    if (this.node !== node.name) return;
    const names = new Set([this.arrayName(node), ...this.parameters]); // the token embedding has the name of its parameter
    const choose = (name) =>
      h(
        "button",
        { type: "button", class: "chip", "aria-pressed": String(name === this.shown), onclick: () => this.open(name) },
        name,
      );
    this.chips = h(
      "p",
      { class: "chips" },
      [...names].map((name) => [choose(name), " "]),
    );
    const code = found.code.map(({ name, file, text }) =>
      h(
        "details",
        { "data-code": name },
        h("summary", {}, h("code", {}, name), h("span", { class: "muted" }, ` in np/${file}`)),
        h("pre", { tabindex: "0" }, h("code", {}, text)),
      ),
    );
    fill(
      this.head,
      h("h2", {}, found.title),
      h("p", {}, found.meaning),
      found.forward
        ? [
            h("p", { class: "formula-name" }, "The computation"),
            h("div", { class: "formula" }, math(found.forward)),
            h("p", { class: "formula-name" }, "The way back: dx is the gradient of the loss with respect to x"),
            h("div", { class: "formula" }, math(found.backward)),
          ]
        : null,
      code,
      h("h3", {}, "Its numbers"),
      this.chips,
    );
  }

  open(name) {
    Object.assign(this, { shown: name, index: 0, zooms: [], chosen: null });
    for (const chip of this.chips.children) chip.setAttribute("aria-pressed", String(chip.textContent === name));
    this.load();
  }

  get zoom() {
    return this.zooms.at(-1) ?? {};
  }

  load() {
    const { question } = this.view;
    this.run(async (signal) => {
      const array = await ask("array", { ...question, name: this.shown, index: this.index, ...this.zoom }, signal);
      this.array = array;
      this.showArrays();
      if (this.chosen) this.nudge(this.chosen);
      else fill(this.proof);
      if (this.updates) this.showUpdate();
    });
  }

  get isParameter() {
    return this.view.data.parameters.includes(this.shown);
  }

  showArrays() {
    const { array } = this;
    const [rows, columns] = array.size;
    const { value, gradient } = array;
    const count = [value.rows[1] - value.rows[0], value.columns[1] - value.columns[0]];
    const readable = count[0] <= READABLE.rows && count[1] <= READABLE.columns;
    const heads = array.shape.length === 3 ? array.shape[0] : 0;
    const picker =
      heads > 1
        ? h(
            "label",
            {},
            "head ",
            h(
              "select",
              { "data-key": "head", onchange: (event) => this.pickHead(Number(event.target.value)) },
              Array.from({ length: heads }, (_, i) => h("option", { value: i, selected: i === this.index }, i)),
            ),
          )
        : null;
    const where =
      count[0] === rows && count[1] === columns
        ? `all ${integer(rows)} × ${integer(columns)} numbers`
        : `rows ${value.rows[0]} to ${value.rows[1] - 1}, columns ${value.columns[0]} to ${value.columns[1] - 1} of ${integer(rows)} × ${integer(columns)}`;
    const pooled =
      value.pool[0] * value.pool[1] > 1
        ? `; each pixel shows the number of largest magnitude among ${value.pool[0]} × ${value.pool[1]}`
        : "";
    const back = this.zooms.length
      ? h("button", { type: "button", "data-key": "back", onclick: () => this.back() }, "Zoom out")
      : null;
    const hint = readable
      ? "Click a number to check its gradient."
      : "Click the picture to zoom in, down to the numbers.";
    const weight = this.isParameter && this.shown.endsWith(".weight");
    const names = weight ? " (rows are inputs, columns are outputs)" : this.isParameter ? "" : " (rows are positions)";
    fill(
      this.arrays,
      h("p", { class: "array-place" }, picker, ` ${where}${names}${pooled}. `, back),
      h("p", { class: "muted" }, hint),
      h(
        "div",
        { class: readable ? "pair tables" : "pair" },
        this.picture("Value", value, array.largest[0], readable),
        this.picture("Gradient", gradient, array.largest[1], readable),
      ),
      this.proof,
      this.isParameter ? this.updateButton() : null,
    );
  }

  pickHead(index) {
    Object.assign(this, { index, zooms: [], chosen: null });
    this.load();
  }

  back() {
    this.zooms.pop();
    this.load();
  }

  picture(name, part, largest, readable) {
    const { shape, values } = tensor(part.values);
    const matrix = { rows: shape[0], columns: shape[1], values };
    const place = (row, column) => [part.rows[0] + row * part.pool[0], part.columns[0] + column * part.pool[1]];
    const title = h(
      "p",
      { class: "picture-name" },
      name,
      h("span", { class: "muted" }, `, largest magnitude ${number(largest)}`),
    );
    if (readable) {
      const chosen = (row, column) =>
        this.chosen !== null && place(row, column).join() === this.chosen.slice(-2).join();
      return h(
        "div",
        {},
        title,
        h(
          "div",
          { class: "scroll" },
          numberTable(matrix, largest, part.rows[0], part.columns[0], chosen, (row, column) =>
            this.choose(place(row, column)),
          ),
        ),
      );
    }
    const heat = new Heat(
      `${name} of ${this.shown}`,
      (row, column, x) => `row ${place(row, column)[0]}, column ${place(row, column)[1]}: ${number(x)}`,
      (row, column) => this.zoomTo(place(row, column)),
    );
    heat.show(matrix, { signed: true, largest });
    return h("div", {}, title, heat.element);
  }

  /** Show a fourth of the rows and columns around a place, or as many as can be read. */
  zoomTo([row, column]) {
    const [rows, columns] = this.array.size;
    const { value } = this.array;
    const range = (at, [start, stop], size, least) => {
      const length = Math.min(size, Math.max(least, Math.floor((stop - start) / ZOOM)));
      const first = Math.max(0, Math.min(size - length, at - Math.floor(length / 2)));
      return [first, first + length];
    };
    this.zooms.push({
      rows: range(row, value.rows, rows, READABLE.rows),
      columns: range(column, value.columns, columns, READABLE.columns),
    });
    this.load();
  }

  choose([row, column]) {
    this.chosen = this.array.shape.length === 3 ? [this.index, row, column] : [row, column];
    this.showArrays();
    this.nudge(this.chosen);
  }

  nudge(index, amount = AMOUNTS[0]) {
    const { question } = this.view;
    const shownIndex = this.array.shape.length === 1 ? index.slice(1) : index;
    this.runNudge(async (signal) => {
      const found = await ask("nudge", { ...question, name: this.shown, index, amount }, signal);
      const ratio = found.predicted === 0 ? null : found.change / found.predicted;
      const pick = h(
        "select",
        {
          "aria-label": "Amount",
          "data-key": "amount",
          onchange: (event) => this.nudge(index, Number(event.target.value)),
        },
        AMOUNTS.map((x) => h("option", { value: x, selected: x === amount }, number(x))),
      );
      fill(
        this.proof,
        h(
          "p",
          {},
          h("code", {}, `${this.shown}[${shownIndex.join(", ")}]`),
          ` is ${number(found.value, 4)}. `,
          term("nudge", "Nudged"),
          " by ",
          pick,
          ", the loss changes by ",
          h("b", {}, number(found.change, 4)),
          "; the gradient predicts ",
          h("b", {}, number(found.predicted, 4)),
          ".",
        ),
        h(
          "p",
          { class: "muted" },
          `Loss ${found.loss.toPrecision(10)} before, ${found.after.toPrecision(10)} after, in float64; gradient ${number(found.gradient, 4)}.`,
          ratio === null
            ? " The gradient is zero, so there is no ratio."
            : ` The ratio is ${ratio.toPrecision(5)}. Its difference from 1 comes from the curvature of the loss, and shrinks with the amount.`,
        ),
      );
    });
  }

  updateButton() {
    this.updates = h("div");
    const details = h(
      "details",
      {
        open: this.updateOpen,
        ontoggle: () => {
          this.updateOpen = details.open;
          this.showUpdate();
        },
      },
      h("summary", {}, "Its moments, and its next update"),
      this.updates,
    );
    return details;
  }

  async showUpdate() {
    if (!this.updateOpen || !this.isParameter) return;
    const name = this.shown;
    const box = this.updates;
    try {
      const found = await ask("update", { ...this.view.question, name });
      if (box !== this.updates) return;
      const parts = {
        m: "m, the average of the gradients",
        v: "v, the average of their squares",
        update: "The update",
      };
      fill(
        box,
        h(
          "p",
          {},
          `If this text were the next batch, ${found.rule} would change the parameter with the learning rate ${number(found.lr)}. ${found.clip < 1 ? `Clipping would multiply the gradients by ${number(found.clip)}. ` : ""}`,
          term("moments", "Moments"),
          " come from the checkpoint of this step.",
        ),
        h(
          "div",
          { class: "pair" },
          Object.entries(parts)
            .filter(([key]) => found[key])
            .map(([key, label]) => {
              const { shape, values } = tensor(found[key].values);
              const heat = new Heat(
                label,
                (row, column, x) =>
                  `row ${row * found[key].pool[0]}, column ${column * found[key].pool[1]}: ${number(x)}`,
              );
              heat.show({ rows: shape[0], columns: shape[1], values }, { signed: true });
              return h(
                "div",
                {},
                h(
                  "p",
                  { class: "picture-name" },
                  label,
                  h("span", { class: "muted" }, `, norm ${number(found[key].norm)}`),
                ),
                heat.element,
              );
            }),
        ),
      );
    } catch (error) {
      if (box === this.updates) fill(box, h("p", { class: "muted" }, error.message));
    }
  }
}

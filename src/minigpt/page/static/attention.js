// The attention of all heads as small maps, and one of them large, with its lines to the tokens.

import { onScheme } from "./colors.js";
import { fill, h, matrix, percent, svg, visible } from "./dom.js";
import { term } from "./glossary.js";
import { draw, Heat } from "./heat.js";
import * as state from "./state.js";
import { TokenText } from "./text.js";

const LINES = 0.02;

/** Return the panel of the attention of a view. */
export function attentionPanel(view) {
  return new Attention(view);
}

class Attention {
  constructor(view) {
    this.view = view;
    this.grid = h("div", { class: "heads" });
    this.heat = new Heat(
      "Attention weights",
      (row, column, weight) => `At ${view.name(row)}: ${percent(weight)} from ${view.name(column)}`,
      (row) => state.set({ position: Math.max(1, row) }),
    );
    this.text = new TokenText(
      "The text; the tokens that the chosen one attends to are marked",
      (i) => state.set({ position: i }),
      0,
    );
    this.lines = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.lined = h("div", { class: "lined" }, this.lines, this.text.element);
    this.caption = h("p");
    this.title = h("h3");
    onScheme(this);
    new ResizeObserver(() => this.view.data && this.showLines()).observe(this.lined);
    this.element = h(
      "section",
      { "aria-label": "Attention" },
      h("h2", {}, "Where each head looks"),
      h(
        "p",
        {},
        "A map for each ",
        term("head"),
        ": each row shows how much a position takes from itself and from the positions before it (",
        term("attention"),
        "). Click a map to see it large.",
        view.editable ? " The switch below a map turns the head off." : null,
      ),
      h(
        "div",
        { class: "columns narrow-left" },
        this.grid,
        h("div", {}, this.title, this.heat.element, this.caption, this.lined),
      ),
    );
  }

  get layer() {
    const last = this.view.model.layers - 1;
    return state.getInteger("layer", 0, last, Math.min(1, last));
  }

  get head() {
    return state.getInteger("head", 0, this.view.model.heads - 1, 0);
  }

  redraw() {
    if (this.view.data && this.element.isConnected) this.show();
  }

  /** Draw everything for a new text or model. */
  show() {
    const { view } = this;
    const [layers, heads] = view.weights.shape;
    this.grid.style.setProperty("--heads", heads);
    fill(
      this.grid,
      Array.from({ length: layers }, (_, i) => this.row(layers - 1 - i, heads)),
    );
    this.refresh();
  }

  row(layer, heads) {
    const { view } = this;
    const branch = (name, label) => this.toggle(`blocks.${layer}.${name}`, label);
    const tiles = Array.from({ length: heads }, (_, head) => {
      const canvas = h("canvas", { class: "tile" });
      draw(canvas, matrix(view.weights, layer, head), { largest: 1 });
      const button = h(
        "button",
        {
          type: "button",
          class: "tile-button",
          "data-head": `${layer}.${head}`,
          "data-key": `map ${layer}.${head}`,
          "aria-label": `Block ${layer}, head ${head}`,
          onclick: () => state.set({ layer, head }),
        },
        canvas,
      );
      return h(
        "div",
        { class: "tile-box" },
        button,
        view.editable
          ? this.toggle(`blocks.${layer}.attention.heads.${head}`, `head ${head}`)
          : h("span", { class: "muted" }, `head ${head}`),
      );
    });
    return h(
      "div",
      { class: "head-row", role: "group", "aria-label": `Block ${layer}` },
      h(
        "div",
        { class: "row-name" },
        `block ${layer}`,
        view.editable ? [branch("attention", "attention"), branch("feed_forward", "feed-forward")] : null,
      ),
      h("div", { class: "tiles" }, tiles),
    );
  }

  toggle(name, label) {
    const off = state.getList("off").includes(name);
    const input = h("input", {
      type: "checkbox",
      role: "switch",
      checked: !off,
      "data-key": name,
      "aria-label": `${label} is on`,
      onchange: () => this.view.toggle(name),
    });
    return h("label", { class: "switch" }, input, label);
  }

  /** Draw what depends on the chosen head and position. */
  refresh() {
    const { view } = this;
    if (!view.data) return;
    for (const button of this.grid.querySelectorAll("[data-head]"))
      button.setAttribute("aria-pressed", String(button.dataset.head === `${this.layer}.${this.head}`));
    this.title.textContent = `Block ${this.layer}, head ${this.head}`;
    const weights = matrix(view.weights, this.layer, this.head);
    this.heat.show(weights, { largest: 1 });
    this.query = Math.max(0, view.position - 1);
    const row = weights.values.subarray(this.query * weights.columns, (this.query + 1) * weights.columns);
    this.shares = [...row];
    const best = this.shares.reduce((top, x, i) => (x > this.shares[top] ? i : top), 0);
    fill(
      this.caption,
      "To predict ",
      h("b", { class: "mono" }, visible(view.data.tokens[view.position])),
      `, the head looks from ${view.name(this.query)} most at ${view.name(best)}: ${percent(this.shares[best])}.`,
    );
    this.text.show(
      view.data.tokens.map((text, i) => (i === 0 ? "⊢" : text)),
      (i) => `weight-${Math.round(9 * Math.sqrt(this.shares[i]))}${i === this.query ? " query" : ""}`,
      (i) => (i > this.query ? "comes later" : percent(this.shares[i])),
      view.position,
    );
    this.showLines();
  }

  /** Draw a line from the position that looks to each token that it looks at. */
  showLines() {
    if (this.shares === undefined) return;
    const frame = this.lined.getBoundingClientRect();
    const middle = (i) => {
      const box = this.text.token(i)?.getBoundingClientRect();
      return box ? [box.left - frame.left + box.width / 2, box.top - frame.top + box.height / 2] : [0, 0];
    };
    const [x, y] = middle(this.query);
    this.lines.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    const curve = (i) => {
      const [a, b] = middle(i);
      const bend = Math.abs(y - b) < 4 ? Math.min(26, 6 + Math.abs(x - a) / 8) : 0;
      return `M${x} ${y}Q${(x + a) / 2} ${(y + b) / 2 - bend} ${a} ${b}`;
    };
    const drawn = this.shares.map((share, i) =>
      share >= LINES && i !== this.query
        ? svg("path", { d: curve(i), "stroke-width": 1 + 5 * share, "stroke-opacity": 0.25 + 0.6 * share })
        : null,
    );
    fill(this.lines, drawn);
  }
}

// The diagram of the model: one block in detail, the others as boxes. The computation runs upwards, the gradient downwards.

import { fill, h, number, svg } from "./dom.js";

const ROW = 62;
const HEIGHT = 30;
const WIDE = { column: 122, box: 100, left: 64 };
const NARROW = { column: 82, box: 76, left: 56 };

/** The diagram. `onChoose(node, block)` is called when a node or a block is chosen. */
export class Diagram {
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.element = h("div", { class: "diagram" });
  }

  show(data, block, chosen) {
    this.sizes = innerWidth < 600 ? NARROW : WIDE;
    const parts = { before: [], block: [], after: [] };
    for (const node of data.nodes) parts[node.part].push(node);
    const sizes = Object.values(data.edges)
      .filter((x) => x > 0)
      .map(Math.log10);
    const [low, high] = [Math.max(Math.min(...sizes), Math.max(...sizes) - 4), Math.max(...sizes)];
    this.thickness = (norm) => (norm > 0 ? 1 + 9 * Math.max(0, (Math.log10(norm) - low) / (high - low || 1)) : 0.5);
    Object.assign(this, { data, block, chosen });
    const blocks = Array.from({ length: data.layers }, (_, i) => data.layers - 1 - i);
    fill(
      this.element,
      this.part("After the blocks: the final norm and the logits", parts.after, null, ["stream"]),
      blocks.map((i) => (i === block ? this.part(`Block ${i}`, parts.block, i, ["stream"]) : this.closed(i))),
      this.part("Before the blocks: the embedding", parts.before, null, []),
    );
  }

  /** A block that is not shown in detail. */
  closed(i) {
    const norm = this.data.norms[`blocks.${i}.residual_post`];
    const button = h(
      "button",
      {
        type: "button",
        class: "closed-block",
        "data-key": `block-${i}`,
        onclick: () => this.onChoose(this.chosen.startsWith("blocks") ? this.chosen : "blocks.{i}.residual_post", i),
      },
      `block ${i}`,
    );
    return h(
      "div",
      { class: "closed-row" },
      this.stem(norm),
      button,
      h("span", { class: "muted" }, `gradient ${number(norm)}`),
    );
  }

  stem(norm) {
    const bar = h("span", { class: "stem" });
    bar.style.width = `${this.thickness(norm)}px`;
    return bar;
  }

  name(node) {
    return node.name.replace("{i}", this.block);
  }

  part(label, nodes, block, outside) {
    const rows = Math.max(...nodes.map(({ place }) => place[1])) + 1 + (outside.length ? 1 : 0.3);
    const columns = Math.max(...nodes.map(({ place }) => place[0])) + 1;
    const { left, column: step } = this.sizes;
    const width = left + columns * step + (columns > 1 ? 0 : 20);
    const height = rows * ROW + 14;
    const at = ([column, row]) => [left + column * step, height - (row + (outside.length ? 1 : 0.3)) * ROW - 12];
    const places = Object.fromEntries(nodes.map((node) => [node.name, at(node.place)]));
    places.stream = [left, height - 6];
    const edges = nodes.flatMap((node) =>
      node.inputs.map((input) => this.edge(input, node.name, places[input], places[node.name])),
    );
    const top =
      nodes.at(-1).part !== "after"
        ? this.line([left, 0], places[nodes.at(-1).name], this.out(nodes.at(-1)), null)
        : null;
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label },
      edges,
      top,
      nodes.map((node) => this.box(node, places[node.name])),
    );
    return h(
      "div",
      { class: block === null ? "part" : "part open-block" },
      h("p", { class: "part-name" }, label),
      drawing,
    );
  }

  /** The gradient that arrives at a node from above. */
  out(node) {
    return this.data.norms[this.name(node)];
  }

  edge(input, output, from, to) {
    const key = `${input} ${output}`.replaceAll("{i}", this.block);
    const norm =
      this.data.edges[key] ??
      this.data.edges[
        key.replace(
          /^stream/,
          this.block !== null && output.startsWith("blocks") ? `stream.${this.block}` : "stream.after",
        )
      ];
    return this.line(to, from, norm, key);
  }

  /** A line from a node down to another one, with the size of the gradient on it. */
  line([x1, y1], [x2, y2], norm) {
    const [start, end] = [y1 + (y1 === 0 ? 0 : HEIGHT / 2), y2 - (y2 > y1 ? HEIGHT / 2 : 0)];
    const d =
      x1 === x2
        ? `M${x1} ${start}L${x2} ${end}`
        : `M${x1} ${start}C${x1} ${(start + end) / 2} ${x2} ${(start + end) / 2} ${x2} ${end}`;
    const far = Math.abs(y2 - y1) > 1.5 * ROW;
    const [lx, ly] =
      x1 === x2 ? [x1 - 8, far ? start + 34 : (start + end) / 2 + 4] : [x1 + (x2 - x1) * 0.18, start + 14];
    return [
      svg("path", { class: "edge", d, "stroke-width": this.thickness(norm) }),
      svg(
        "text",
        { class: "edge-label", x: lx, y: ly, "text-anchor": x1 === x2 ? "end" : x2 < x1 ? "end" : "start" },
        number(norm, 2),
      ),
    ];
  }

  box(node, [x, y]) {
    const name = this.name(node);
    const choose = () => this.onChoose(node.name, node.part === "block" ? this.block : null);
    const round = node.label === "+";
    const width = Math.max(this.sizes.box, 7.6 * node.label.length);
    const shape = round
      ? svg("circle", { cx: x, cy: y, r: 15 })
      : svg("rect", { x: x - width / 2, y: y - HEIGHT / 2, width, height: HEIGHT, rx: 6 });
    return svg(
      "g",
      {
        class: `node${node.name === this.chosen ? " chosen" : ""}`,
        tabindex: 0,
        role: "button",
        "data-key": name,
        "aria-pressed": String(node.name === this.chosen),
        "aria-label": `${node.title}, ${name}: gradient ${number(this.data.norms[name])}`,
        onclick: choose,
        onkeydown: (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            choose();
          }
        },
      },
      shape,
      svg("text", { x, y: y + 5, "text-anchor": "middle" }, node.label),
    );
  }
}

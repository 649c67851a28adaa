// Curves.

import { h, number, svg } from "./dom.js";

const SIZE = { height: 240, left: 74, right: 12, top: 12, bottom: 34 };

/** Return about n round numbers between two numbers. */
function ticks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  const first = Math.ceil(low / step);
  const found = [];
  for (let i = first; i * step <= high + 1e-9 * step; i += 1) found.push(i * step);
  return found;
}

const logTicks = (low, high) => {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
    for (const x of [1, 2, 5]) if (x * 10 ** power >= low && x * 10 ** power <= high) found.push(x * 10 ** power);
  return found.length > 6
    ? found.filter((x) => Number.isInteger(Math.log10(x) + 1e-12) || Math.abs(Math.log10(x) % 1) < 1e-9)
    : found;
};

const short = (x) =>
  Math.abs(x) >= 1e6 ? `${number(x / 1e6)} M` : Math.abs(x) >= 1e4 ? `${number(x / 1e3)} k` : number(x);

/**
 * Return a figure with curves over a common x.
 *
 * curves: [{name, class, x, y}]; options: {title, x: its name, y: its name, log, lines: [{y, name}], at: an x that is marked,
 * onChoose(x)}.
 */
export function chart(curves, options) {
  const points = curves
    .flatMap(({ x, y }) => x.map((value, i) => [value, y[i]]))
    .filter(([a, b]) => a !== null && b !== null && (!options.log || b > 0));
  if (points.length === 0)
    return h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, options.title),
      h("p", { class: "muted" }, "Nothing has been recorded yet."),
    );
  const width = innerWidth < 700 ? 360 : 560;
  const { height, left, right, top, bottom } = SIZE;
  const xs = points.map(([x]) => x);
  const ys = [...points.map(([, y]) => y), ...(options.lines ?? []).map(({ y }) => y)];
  const [x0, x1] = [Math.min(0, ...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (!options.log) [y0, y1] = [Math.min(y0, Math.max(0, y0 - 0.05 * (y1 - y0))), y1 + 0.05 * (y1 - y0) || 1];
  const scale = options.log ? Math.log : (y) => y;
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((scale(y) - scale(y0)) / (scale(y1) - scale(y0) || 1)) * (height - top - bottom);
  const path = ({ x, y }) =>
    x.reduce(
      (text, value, i) =>
        value === null || y[i] === null || (options.log && y[i] <= 0)
          ? text
          : `${text}${text ? "L" : "M"}${px(value).toFixed(1)} ${py(y[i]).toFixed(1)}`,
      "",
    );
  const grid = (options.log ? logTicks(y0, y1) : ticks(y0, y1, 5)).map((y) => [
    svg("line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) }),
    svg("text", { class: "tick", x: left - 6, y: py(y) + 4, "text-anchor": "end" }, short(y)),
  ]);
  const across = ticks(x0, x1, 5).map((x) =>
    svg("text", { class: "tick", x: px(x), y: height - bottom + 16, "text-anchor": "middle" }, short(x)),
  );
  const references = (options.lines ?? []).map(({ y, name }) => [
    svg("line", { class: "reference", x1: left, x2: width - right, y1: py(y), y2: py(y) }),
    svg("text", { class: "tick", x: width - right, y: py(y) - 5, "text-anchor": "end" }, name),
  ]);
  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const marked =
    options.at === null || options.at === undefined
      ? null
      : svg("line", { class: "at", x1: px(options.at), x2: px(options.at), y1: top, y2: height - bottom });
  const line = h("p", { class: "heat-line" }, "\u00a0");
  const drawing = svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${options.title}: ${curves.map((curve) => summary(curve, options)).join("; ")}`,
      onmousemove: (event) => {
        const box = drawing.getBoundingClientRect();
        const x =
          x0 + (((event.clientX - box.left) / box.width) * width - left) / ((width - left - right) / (x1 - x0 || 1));
        cursor.setAttribute("visibility", "visible");
        cursor.setAttribute("x1", px(Math.max(x0, Math.min(x1, x))));
        cursor.setAttribute("x2", px(Math.max(x0, Math.min(x1, x))));
        line.textContent = [
          `${options.x} ${short(Math.max(x0, Math.min(x1, x)))}`,
          ...curves.map((curve) => `${curve.name} ${number(nearest(curve, x))}`),
        ].join(" · ");
      },
      onmouseleave: () => {
        cursor.setAttribute("visibility", "hidden");
        line.textContent = "\u00a0";
      },
    },
    grid,
    across,
    svg("text", { class: "tick", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, options.x),
    references,
    curves.map((curve) => svg("path", { class: `curve ${curve.class}`, d: path(curve) })),
    marked,
    cursor,
  );
  const names =
    curves.length > 1 || options.legend
      ? h(
          "p",
          { class: "chart-legend" },
          curves.map(({ name, class: kind }) => [
            h("span", { class: "nowrap" }, h("span", { class: `swatch ${kind}` }), name),
            " ",
          ]),
        )
      : null;
  return h("figure", { class: "chart" }, h("figcaption", {}, options.title), names, drawing, line);
}

function nearest({ x, y }, at) {
  let best = 0;
  x.forEach((value, i) => {
    if (value !== null && Math.abs(value - at) < Math.abs(x[best] - at)) best = i;
  });
  return y[best];
}

function summary({ name, y }) {
  const known = y.filter((value) => value !== null);
  return known.length ? `${name} from ${number(known[0])} to ${number(known.at(-1))}` : name;
}

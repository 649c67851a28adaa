// The story in a report: the view "Look inside" of its snapshots, and the flow of the gradient, without a server.

import { fill, h, integer, matrix, number, tensor } from "./dom.js";
import { term } from "./glossary.js";
import { Heat } from "./heat.js";
import { Inside } from "./inside.js";
import * as state from "./state.js";

const { model, moments } = JSON.parse(document.getElementById("story-data").textContent);
const root = document.getElementById("story");
let shown = moments.at(-1);

const load = async () => shown;
const attribute = async ({ position }) => {
  const found = shown.attribution[position];
  return { ...found, shares: found.shares.map((share, i) => [shown.parts[i], share]) };
};
const body = h("div");
const view = new Inside(body, model, load, attribute);
const rowName = (row) => (row === 0 ? "embedding" : `after block ${row - 1}`);
const flow = new Heat(
  "Norms of the gradient of the residual stream",
  (row, column, value) => `${rowName(row)}, at ${view.name(column)}: ${number(value)}`,
  (_, column) => state.set({ position: Math.max(1, column) }),
  rowName,
);
const label = (moment) =>
  moment.step === null ? "" : `after step ${integer(moment.step)}${moment === moments.at(-1) ? ", the last one" : ""}`;
const output = h("output", { for: "story-time" }, label(shown));
const slider = h("input", {
  id: "story-time",
  type: "range",
  min: 0,
  max: moments.length - 1,
  step: 1,
  "aria-valuetext": label(shown),
});
slider.value = moments.length - 1;
slider.addEventListener("input", () => {
  shown = moments[Number(slider.value)];
  output.textContent = label(shown);
  slider.setAttribute("aria-valuetext", label(shown));
  show();
});

function show() {
  view.load();
  flow.show(matrix(tensor(shown.flow)));
}

fill(
  root,
  moments.length > 1
    ? h("p", { class: "story-time" }, h("label", { for: "story-time" }, "The model"), slider, output)
    : null,
  body,
  h(
    "section",
    { "aria-label": "Gradient flow" },
    h("h2", {}, "The way back"),
    h(
      "p",
      {},
      "The ",
      term("norm"),
      " of the ",
      term("gradient"),
      " of the mean loss with respect to the residual stream of each position (columns), at the embedding and after each block (rows).",
    ),
    flow.element,
  ),
);
state.onChange((changed) => (changed.has("position") ? view.showPosition() : view.attention.refresh()));
show();

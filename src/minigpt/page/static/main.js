// The frame of the page: the views, the name of the model, and the slider over the snapshots.

import { ask } from "./api.js";
import { fill, h, integer } from "./dom.js";
import { term } from "./glossary.js";
import * as gradient from "./gradient.js";
import * as inside from "./inside.js";
import * as state from "./state.js";
import * as tokens from "./tokens.js";
import * as training from "./training.js";
import * as write from "./write.js";

const VIEWS = { "/write": write, "/inside": inside, "/gradient": gradient, "/training": training, "/tokens": tokens };
const REFRESH = 5000;
const main = document.getElementById("view");
let leave = () => {};

/** Show the view of the address. */
function show(model) {
  leave();
  state.forgetListeners();
  state.reread();
  const view = VIEWS[location.pathname] ?? write;
  document.title = `${view.title} – ${model.name} – minigpt`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  slider.show(view.hasTime !== false);
  main.replaceChildren();
  leave = view.show(main, model) ?? (() => {});
}

/** The slider over the snapshots. It moves every view through the training. */
class Slider {
  constructor() {
    this.output = h("output", { for: "time-slider" });
    this.input = h("input", { id: "time-slider", type: "range", min: 0, step: 1 });
    this.element = document.getElementById("time");
    this.input.addEventListener("input", () => {
      const i = Number(this.input.value);
      state.set({ step: i === this.model.steps.length - 1 ? null : this.model.steps[i] });
      this.say();
    });
    fill(
      this.element,
      term("snapshot", "The model"),
      h("label", { for: "time-slider", class: "hidden" }, "Snapshot of the model"),
      this.input,
      this.output,
    );
  }

  show(wanted) {
    const { steps } = this.model;
    for (const child of this.element.children) child.hidden = !wanted || steps.length < 2;
    this.input.max = steps.length - 1;
    const at = steps.indexOf(Number(state.get("step", "-1")));
    this.input.value = at < 0 ? steps.length - 1 : at;
    this.wanted = wanted;
    this.say();
  }

  say() {
    const { steps } = this.model;
    const i = Number(this.input.value);
    const text = steps.length ? `after step ${integer(steps[i])}${i === steps.length - 1 ? ", the last one" : ""}` : "";
    this.output.textContent = text;
    this.input.setAttribute("aria-valuetext", text);
  }

  /** Look for new snapshots of a training that goes on. */
  async refresh() {
    if (document.hidden) return;
    const { steps } = await ask("model").catch(() => this.model);
    if (String(steps) === String(this.model.steps)) return;
    this.model.steps = steps;
    this.show(this.wanted);
    if (state.get("step") === null) state.notify(new Set(["latest"]));
  }
}

async function start() {
  let model;
  try {
    model = await ask("model");
  } catch (error) {
    fill(main, h("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  slider.model = model;
  fill(
    document.getElementById("model"),
    model.name,
    h("span", { class: "muted" }, ` ${integer(model.parameters)} parameters`),
  );
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='/']");
    if (!link || !(link.pathname in VIEWS) || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", link.search ? link.pathname + link.search : state.address(link.pathname, true));
    show(model);
    main.focus();
  });
  addEventListener("popstate", () => show(model));
  show(model);
  if (model.trained) setInterval(() => slider.refresh(), REFRESH);
}

const slider = new Slider();
start();

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
  const time = document.getElementById("time");
  const slider = view.hasTime === false || model.steps.length < 2 ? null : timeSlider(model);
  fill(time, slider?.element);
  main.replaceChildren();
  const stop = view.show(main, model);
  leave = () => {
    stop?.();
    slider?.stop();
  };
}

/** Return the slider over the snapshots. It moves every view through the training. */
function timeSlider(model) {
  let steps = model.steps;
  const position = () => {
    const step = state.getNumber("step");
    return step === null || !steps.includes(step) ? steps.length - 1 : steps.indexOf(step);
  };
  const text = () => (position() === steps.length - 1 ? `after step ${integer(steps.at(-1))}, the last one` : `after step ${integer(steps[position()])}`);
  const output = h("output", { for: "time-slider" }, text());
  const input = h("input", { id: "time-slider", type: "range", min: 0, max: steps.length - 1, step: 1, "aria-valuetext": text() });
  const showValue = () => {
    output.textContent = text();
    input.setAttribute("aria-valuetext", text());
  };
  input.value = position();
  input.addEventListener("input", () => {
    const i = Number(input.value);
    state.set({ step: i === steps.length - 1 ? null : steps[i] });
    showValue();
  });
  const timer = setInterval(async () => {
    const found = (await ask("model").catch(() => ({ steps }))).steps;
    if (found.length === steps.length) return;
    const step = state.getNumber("step");
    steps = model.steps = found;
    input.max = steps.length - 1;
    input.value = step === null ? steps.length - 1 : steps.indexOf(step);
    showValue();
  }, REFRESH);
  return { element: [h("label", { for: "time-slider" }, term("snapshot", "The model"), " "), input, output], stop: () => clearInterval(timer) };
}

async function start() {
  let model;
  try {
    model = await ask("model");
  } catch (error) {
    fill(main, h("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  fill(document.getElementById("model"), model.name, h("span", { class: "muted" }, ` ${integer(model.parameters)} parameters`));
  document.querySelector("nav").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", state.address(link.pathname, true));
    show(model);
    main.focus();
  });
  addEventListener("popstate", () => show(model));
  show(model);
}

start();

// The view "Training": the curves of a run, which may still be going on, and the stories that it told.

import { ask } from "./api.js";
import { chart } from "./chart.js";
import { fill, h, integer, number } from "./dom.js";
import { term } from "./glossary.js";
import * as state from "./state.js";
import { legend, levelClass, surpriseTitle, TokenText } from "./text.js";

export const title = "Training";
const REFRESH = 2000;
const AXES = { tokens: "tokens", elapsed_s: "seconds", step: "step" };

export function show(root, model) {
  if (!model.trained) {
    fill(
      root,
      h("h1", {}, "Training"),
      h("p", {}, "This model does not belong to a run of minigpt, so there are no records of its training."),
    );
    return null;
  }
  const view = new Training(root);
  state.onChange(() => view.draw());
  view.load();
  const timer = setInterval(() => view.load(), REFRESH);
  return () => clearInterval(timer);
}

class Training {
  constructor(root) {
    this.progress = h("p", { class: "facts" });
    this.charts = h("div", { class: "charts" });
    this.layers = h("div", { class: "charts" });
    this.stories = h("div", { class: "stories" });
    this.error = h("p", { class: "error", role: "alert" });
    this.seen = "";
    const axis = h(
      "select",
      { id: "axis", onchange: () => state.set({ axis: axis.value === "tokens" ? null : axis.value }) },
      Object.entries(AXES).map(([name, label]) => h("option", { value: name }, label)),
    );
    axis.value = state.get("axis", "tokens");
    fill(
      root,
      h("h1", {}, "Training"),
      h(
        "p",
        { class: "intro" },
        "How the model became what it is. Each step changes the parameters a little, so that the ",
        term("loss"),
        " of a batch of text decreases. The slider above selects a step: it is marked in the curves, and the other views show the model after it.",
      ),
      this.error,
      this.progress,
      h("p", {}, h("label", { for: "axis" }, "Horizontal axis "), axis),
      h("section", { "aria-label": "Curves" }, this.charts),
      h("section", { "aria-label": "Stories" }, h("h2", {}, "The stories that it told"), legend(), this.stories),
      h(
        "section",
        { "aria-label": "Layers" },
        h("h2", {}, "The layers"),
        h(
          "p",
          {},
          "The ",
          term("norm"),
          " of the ",
          term("gradient"),
          ", of the weights and of the update of each layer.",
        ),
        this.layers,
      ),
    );
  }

  async load() {
    if (document.hidden && this.data) return;
    try {
      const data = await ask("training");
      fill(this.error);
      const seen = `${data.done} ${data.samples.length} ${data.validation.step.length}`;
      if (seen === this.seen) return;
      Object.assign(this, { data, seen });
      this.draw();
    } catch (error) {
      fill(this.error, error.message);
    }
  }

  /** Return the value on the horizontal axis of a step. */
  place(step, axis) {
    const { curves } = this.data;
    let best = 0;
    curves.step.forEach((value, i) => {
      if (Math.abs(value - step) < Math.abs(curves.step[best] - step)) best = i;
    });
    return curves[axis][best];
  }

  draw() {
    if (!this.data) return;
    const { curves, validation, floor, done, steps, samples } = this.data;
    const axis = Object.hasOwn(AXES, state.get("axis", "tokens")) ? state.get("axis", "tokens") : "tokens";
    const step = state.getInteger("step", 0, Infinity);
    const at = step === null ? null : this.place(step, axis);
    const x = curves[axis];
    const options = { x: AXES[axis], at };
    const last = validation.val_bits_per_byte.at(-1);
    fill(
      this.progress,
      h("b", {}, done >= steps ? `All ${integer(steps)} steps are done` : `Step ${integer(done)} of ${integer(steps)}`),
      last ? `. The last validation: ${number(last)} ` : ".",
      last ? term("bits per byte") : null,
      last && floor ? [`, ${number(last - floor, 2)} above the `, term("floor"), ` of ${number(floor)}`] : null,
      last ? "." : null,
    );
    fill(
      this.charts,
      chart(
        [
          { name: "training", class: "training", x, y: curves.loss },
          { name: "validation", class: "validation", x: validation[axis], y: validation.val_loss },
        ],
        { ...options, title: "Loss, in nats per token", log: true },
      ),
      chart([{ name: "validation", class: "validation", x: validation[axis], y: validation.val_bits_per_byte }], {
        ...options,
        title: "Bits per byte of the validation text",
        lines: floor ? [{ y: floor, name: "floor" }] : [],
      }),
      chart([{ name: "learning rate", class: "training", x, y: curves.lr }], {
        ...options,
        title: "Learning rate of the matrices",
      }),
      chart([{ name: "norm", class: "training", x, y: curves.grad_norm }], {
        ...options,
        title: "Norm of the gradient",
        log: true,
        lines: this.data.clip ? [{ y: this.data.clip, name: "clipped above" }] : [],
      }),
    );
    this.drawLayers(axis, at);
    this.drawStories(samples, step);
  }

  drawLayers(axis, at) {
    const { layers, steps: measured, ...values } = this.data.norms;
    const titles = { gradient: "Norm of the gradient", weight: "Norm of the weights", update: "Norm of the update" };
    const x = measured.map((step) => this.place(step, axis));
    fill(
      this.layers,
      Object.entries(titles).map(([kind, name]) =>
        chart(
          (values[kind] ?? []).map((y, i) => ({
            name: layers[i].replaceAll("_", " ").replace("blocks.", "block "),
            class: `series-${i % 8}`,
            x,
            y,
          })),
          { title: name, x: AXES[axis], log: true, at, legend: true },
        ),
      ),
    );
  }

  drawStories(samples, step) {
    const told = samples.filter((sample) => sample.text);
    const near =
      step === null
        ? null
        : told.reduce(
            (best, sample) =>
              best === null || Math.abs(sample.step - step) < Math.abs(best.step - step) ? sample : best,
            null,
          );
    if (this.drawn === told.length && this.near === near?.step) return;
    Object.assign(this, { drawn: told.length, near: near?.step });
    fill(
      this.stories,
      told.length ? told.map((sample) => story(sample, sample === near)) : h("p", { class: "muted" }, "None yet."),
    );
    const shown = this.stories.querySelector(".near");
    if (shown) this.stories.scrollLeft = shown.offsetLeft - this.stories.offsetLeft;
  }
}

function story(sample, near) {
  const label = `Story after step ${integer(sample.step)}`;
  const body = sample.pieces && sample.surprises ? new TokenText(label, () => {}) : null;
  body?.show(
    sample.pieces,
    (i) => levelClass(sample.surprises[i]),
    (i) => surpriseTitle(sample.surprises[i]),
    null,
  );
  return h(
    "article",
    { class: near ? "near" : null, "aria-label": label },
    h("h3", {}, `Step ${integer(sample.step)}`),
    h(
      "p",
      { class: "story", dir: "auto" },
      sample.prompt ? h("b", {}, sample.prompt) : null,
      body ? body.element : sample.text,
    ),
  );
}

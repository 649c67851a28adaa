// The view "Follow the gradient": the loss of a token, followed backwards through the model, to every number.

import { ask, latest } from "./api.js";
import { Diagram } from "./diagram.js";
import { afterPause, fill, h, integer, number, visible } from "./dom.js";
import { term } from "./glossary.js";
import { NodePanel } from "./node.js";
import * as state from "./state.js";
import { levelClass, surpriseTitle, TokenText } from "./text.js";

export const title = "Follow the gradient";

export function show(root, model) {
  const view = new Gradient(root, model);
  state.onChange((changed) => {
    if (["text", "step", "off", "target", "latest"].some((name) => changed.has(name))) view.load();
    else if (changed.has("node") || changed.has("block")) view.showNode();
  });
  view.load();
}

class Gradient {
  constructor(root, model) {
    this.model = model;
    this.run = latest((error) => fill(this.error, error.message));
    this.input = h("textarea", {
      id: "text",
      rows: 2,
      spellcheck: "false",
      dir: "auto",
      value: state.get("text", model.example),
    });
    this.input.addEventListener(
      "input",
      afterPause(300, () => state.set({ text: this.input.value, target: null })),
    );
    this.error = h("p", { class: "error", role: "alert" });
    this.text = new TokenText("The text; choose the token whose loss is followed", (i) => state.set({ target: i }), 1);
    this.mean = h(
      "button",
      { type: "button", class: "chip", onclick: () => state.set({ target: null }) },
      "The mean over all tokens",
    );
    this.facts = h("p", { class: "facts", role: "status" });
    this.diagram = new Diagram((node, block) => state.set({ node, block: block ?? this.block }));
    this.panel = new NodePanel(this);
    fill(
      root,
      h("h1", {}, "Follow the gradient"),
      h(
        "p",
        { class: "intro" },
        "How the loss of a token reaches every number of the model. Read the diagram from the top: the ",
        term("gradient"),
        " flows down, against the computation. The thicker an edge, the larger the gradient on it.",
      ),
      h("label", { for: "text" }, `Text, at most ${integer(model.limit)} tokens`),
      this.input,
      this.error,
      h(
        "section",
        { "aria-label": "Whose loss" },
        h("p", {}, "Whose ", term("loss"), "? Choose a token, or ", this.mean, "."),
        this.text.element,
        this.facts,
      ),
      h(
        "div",
        { class: "columns gradient" },
        h("section", { "aria-label": "Diagram of the model" }, h("h2", {}, "The way back"), this.diagram.element),
        h("section", { "aria-label": "The chosen node" }, this.panel.element),
      ),
    );
  }

  get question() {
    return {
      text: state.get("text", this.model.example),
      step: state.getInteger("step", 0, Infinity),
      off: state.getList("off"),
      target: state.getInteger("target", 1, Infinity),
    };
  }

  get block() {
    return state.getInteger("block", 0, this.model.layers - 1, this.model.layers - 1);
  }

  load() {
    const { question } = this;
    this.run(async (signal) => {
      this.data = await ask("gradient", question, signal);
      fill(this.error);
      const { tokens, surprise } = this.data;
      this.text.show(
        tokens,
        (i) => levelClass(surprise[i]),
        (i) => surpriseTitle(surprise[i]),
        question.target,
      );
      this.mean.setAttribute("aria-pressed", String(question.target === null));
      const whose = question.target === null ? "The mean loss" : `The loss of “${visible(tokens[question.target])}”`;
      fill(
        this.facts,
        whose,
        " is ",
        h("b", {}, `${number(this.data.loss, 4)} nats`),
        ". ",
        question.off.length ? `Switched off: ${question.off.join(", ")}.` : null,
      );
      this.showNode();
    });
  }

  showNode() {
    if (!this.data) return;
    const node = this.data.nodes.find(({ name }) => name === state.get("node", "logits")) ?? this.data.nodes.at(-1);
    this.diagram.show(this.data, this.block, node.name);
    this.panel.show(node, this.block);
  }
}

// The view "Look inside": what the model sees in a text, and what each of its parts contributes.

import { ask, latest } from "./api.js";
import { attentionPanel } from "./attention.js";
import { afterPause, fill, h, inBits, integer, matrix, number, percent, tensor, visible } from "./dom.js";
import { term } from "./glossary.js";
import { Heat } from "./heat.js";
import { lensTable } from "./lens.js";
import { partName, sharesOf } from "./shares.js";
import * as state from "./state.js";
import { alternatives, legend, levelClass, surpriseTitle, TokenText } from "./text.js";

export const title = "Look inside";

export function show(root, model) {
  const view = new Inside(
    root,
    model,
    (question, signal) => ask("inside", question, signal),
    (question, signal) => ask("attribution", question, signal),
    true,
  );
  view.askForText();
  state.onChange((changed) => {
    if (["text", "step", "off", "latest"].some((name) => changed.has(name))) view.load();
    else if (changed.has("position")) view.showPosition();
    else view.attention.refresh();
  });
  view.load();
}

/** The view. `load` and `attribute` answer questions: the server's answers, or those that a report contains. Only what is `editable` can be switched off. */
export class Inside {
  constructor(root, model, load, attribute, editable = false) {
    Object.assign(this, { root, model, answer: load, attribute, editable });
    this.whole = null;
    this.run = latest((error) => {
      fill(this.error, error.message);
      this.showOff();
    });
    this.runAttribution = latest((error) => fill(this.shares, h("p", { class: "muted" }, error.message)));
    this.error = h("p", { class: "error", role: "alert" });
    this.facts = h("p", { class: "facts", role: "status" });
    this.off = h("p", { class: "off" });
    this.text = new TokenText("The text, colored by surprise", (i) => state.set({ position: i }), 1);
    this.likeliest = h("div");
    this.lens = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Logit lens" });
    this.norms = new Heat(
      "Norms of the residual stream",
      (row, column, value) => `${this.streamName(row)}, at ${this.name(column)}: ${number(value)}`,
      (_, column) => state.set({ position: Math.max(1, column) }),
      (row) => this.streamName(row),
    );
    this.shares = h("div");
    this.attention = attentionPanel(this);
    this.form = h("div");
    fill(root, this.page());
  }

  page() {
    return [
      h(
        "p",
        { class: "intro" },
        "How the model reads a text. The color of a token is its ",
        term("surprise"),
        ": how unlikely the model found it, given the text before it. Choose a token to see why.",
      ),
      this.form,
      this.error,
      h("section", { "aria-label": "The text" }, this.text.element, this.facts, this.off, legend()),
      h(
        "div",
        { class: "columns" },
        h("section", { "aria-label": "What the model expected" }, h("h2", {}, "What it expected here"), this.likeliest),
        h(
          "section",
          { "aria-label": "Attribution" },
          h("h2", {}, "What each part contributes"),
          h("p", {}, "Each part's share in the ", term("logit"), " of the chosen token (", term("attribution"), ")."),
          this.shares,
        ),
      ),
      this.attention.element,
      h(
        "section",
        { "aria-label": "Logit lens" },
        h("h2", {}, "From layer to layer"),
        h(
          "p",
          {},
          "What the model would predict in place of each token if it ended after this block (",
          term("logit lens"),
          "). The shade shows the probability, and a frame marks a prediction that equals the token of the text.",
        ),
        this.lens,
      ),
      h(
        "section",
        { "aria-label": "Residual stream" },
        h("h2", {}, "The residual stream"),
        h(
          "p",
          {},
          "The ",
          term("norm"),
          " of the vector of each position (columns), after the embedding and after each branch (rows, the last at the bottom): ",
          term("residual stream"),
          ".",
        ),
        this.norms.element,
      ),
    ];
  }

  /** Add the field for the text, which a report does not have. */
  askForText() {
    this.input = h("textarea", {
      id: "text",
      rows: 3,
      spellcheck: "false",
      dir: "auto",
      value: state.get("text", this.model.example),
    });
    const change = () => state.set({ text: this.input.value });
    this.input.addEventListener("input", afterPause(300, change));
    this.root.prepend(h("h1", {}, title));
    fill(this.form, h("label", { for: "text" }, `Text, at most ${integer(this.model.limit)} tokens`), this.input);
  }

  get question() {
    return {
      text: state.get("text", this.model.example),
      step: state.getInteger("step", 0, Infinity),
      off: state.getList("off"),
    };
  }

  load() {
    const { question } = this;
    this.run(async (signal) => {
      const data = await this.answer(question, signal);
      const whole = question.off.length ? await this.answer({ ...question, off: [] }, signal) : data;
      fill(this.error);
      Object.assign(this, { data, whole, weights: tensor(data.attention), normsOfStream: tensor(data.residual_norms) });
      this.showText();
      this.attention.show();
      fill(
        this.lens,
        lensTable(this.data, (position) => state.set({ position })),
      );
      this.norms.show(matrix(this.normsOfStream));
      this.showPosition();
    });
  }

  /** The token that is chosen: by default the one that surprised the model the most. */
  get position() {
    const last = this.data.tokens.length - 1;
    const given = state.getInteger("position", 1, last);
    if (given !== null) return given;
    return this.data.surprise.reduce(
      (best, bits, i) => (bits !== null && bits > this.data.surprise[best] ? i : best),
      1,
    );
  }

  name(i) {
    return i === 0 ? "the beginning of the text" : `“${visible(this.data.tokens[i])}” (${i})`;
  }

  streamName(row) {
    return partName(this.data.streams[row]);
  }

  showText() {
    const { tokens, surprise, storybook } = this.data;
    const change = (i) => surprise[i] - this.whole.surprise[i];
    const compared = this.question.off.length > 0;
    const className = (i) =>
      levelClass(surprise[i]) + (compared && Math.abs(change(i)) >= 0.5 ? (change(i) > 0 ? " worse" : " better") : "");
    const expected = (i) =>
      `\nExpected: ${this.data.likeliest[i]
        .slice(0, 5)
        .map(([, text, p]) => `${visible(text)} ${percent(p)}`)
        .join(", ")}`;
    const tokenTitle = (i) =>
      surpriseTitle(surprise[i], storybook?.[i]) +
      expected(i) +
      (compared ? `; ${number(this.whole.surprise[i])} with all parts` : "");
    this.text.show(tokens, className, tokenTitle, this.position);
    const mean = (values) => values.slice(1).reduce((sum, x) => sum + x, 0) / (values.length - 1);
    const per = (bits) => h("b", {}, `${bits.toFixed(2)} bits per token`);
    fill(
      this.facts,
      per(mean(surprise)),
      storybook
        ? [
            ". Under the grammar that wrote the story, it is ",
            per(mean(storybook)),
            "; over many stories, no model can average less",
          ]
        : null,
      compared ? [". With all parts, it is ", per(mean(this.whole.surprise))] : null,
      ".",
    );
    this.showOff();
  }

  showOff() {
    const off = state.getList("off");
    const remove = (name) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          "data-key": `chip ${name}`,
          "aria-label": `Switch on ${partName(name)}`,
          onclick: () => this.toggle(name),
        },
        `${partName(name)} ×`,
      );
    const all = h(
      "button",
      { type: "button", class: "chip", onclick: () => state.set({ off: null }) },
      "Switch on all",
    );
    fill(
      this.off,
      off.length
        ? [
            "Switched off: ",
            off.map((name) => [remove(name), " "]),
            off.length > 1 ? all : null,
            h("span", { class: "muted" }, " An arrow marks tokens whose surprise changed by half a bit or more."),
          ]
        : null,
    );
  }

  /** Switch a part on or off. */
  toggle(name) {
    const off = state.getList("off");
    state.set({ off: off.includes(name) ? off.filter((other) => other !== name) : [...off, name].sort() });
  }

  showPosition() {
    if (!this.data) return;
    const i = this.position;
    const { likeliest, tokens, ids, surprise, storybook } = this.data;
    this.text.chosen = i;
    this.text.mark();
    const known =
      storybook?.[i] === undefined ? "" : ` Under the grammar of the storybook, it has ${inBits(storybook[i])}.`;
    fill(
      this.likeliest,
      h(
        "p",
        {},
        "In the place of ",
        h("b", { class: "mono" }, visible(tokens[i])),
        `, which had ${inBits(surprise[i])} of surprise.${known}`,
      ),
      alternatives(likeliest[i], ids[i]),
    );
    for (const cell of this.lens.querySelectorAll("td.chosen")) cell.classList.remove("chosen");
    for (const cell of this.lens.querySelectorAll(`[data-position="${i}"]`)) cell.classList.add("chosen");
    this.attention.refresh();
    if (this.model.post_norm) {
      fill(
        this.shares,
        h("p", { class: "muted" }, "This model is post-norm: its logits are not a sum over its parts."),
      );
      return;
    }
    this.runAttribution(async (signal) =>
      fill(
        this.shares,
        sharesOf(
          await this.attribute({ ...this.question, position: i - 1 }, signal),
          new Set(state.getList("off")),
          this.editable ? (name) => this.toggle(name) : null,
        ),
      ),
    );
  }
}

// The view "Write": a story as it is written, the choices at each token, and the branches of other choices.

import { latest, lines } from "./api.js";
import { Branch } from "./branch.js";
import { afterPause, announce, fill, h, inBits, integer, number, percent, visible } from "./dom.js";
import { term } from "./glossary.js";
import * as state from "./state.js";
import { alternatives, legend, levelClass, surpriseTitle, TokenText } from "./text.js";

export const title = "Write";

const MOST = 1000;
const SETTINGS = {
  temperature: { label: "temperature", value: 0.8, min: 0, max: 2, step: 0.05, help: "temperature" },
  top_k: { label: "top-k", value: 40, min: 0, max: 100000, step: 1, help: "top-k" },
  top_p: { label: "top-p", value: 1, min: 0.01, max: 1, step: 0.01, help: "top-p" },
  min_p: { label: "min-p", value: 0, min: 0, max: 1, step: 0.01, help: "min-p" },
  seed: { label: "seed", value: 0, min: 0, max: 9007199254740991, step: 1, help: "seed" },
  max_new_tokens: { label: "tokens", value: 200, min: 1, max: 1000, step: 1, help: null },
};

let kept = null;

/** Show the stories that have been written already, or write the one of the address. */
export function show(root, model) {
  const view = kept ?? new Write(model);
  const asked = state.get("prompt") !== null;
  view.appendTo(root);
  if (!kept && asked) view.begin();
  else if (!asked) view.remember();
  kept = view;
  const again = afterPause(300, () => view.again());
  state.onChange((changed) => changed.has("step") && again());
  return () => view.stop();
}

class Write {
  constructor(model) {
    this.model = model;
    this.roots = [];
    this.branch = null;
    this.writing = false;
    this.run = latest((error) => this.fail(error));
    this.prompt = h("textarea", { id: "prompt", rows: 2, value: state.get("prompt", "Once upon a time"), dir: "auto" });
    this.settings = Object.fromEntries(
      Object.entries(SETTINGS).map(([name, setting]) => [name, this.input(name, setting)]),
    );
    this.text = new TokenText("The story, in tokens", (i) => this.showChoices(i));
    this.promptText = h("span", { class: "prompt-text" });
    this.choices = h("div", { class: "choices" });
    this.tree = h("ul", { class: "tree" });
    this.error = h("p", { class: "error", role: "alert" });
    this.facts = h("p", { class: "muted" });
    this.look = h("a", { href: "/inside", hidden: true }, "Look inside its beginning");
    this.command = h("code", { class: "command" });
    this.copied = h("span", { class: "muted", role: "status" });
    const button = (label, act) => h("button", { type: "button", onclick: act }, label);
    this.startButton = h("button", { type: "submit", class: "main-button" }, "Write");
    this.stopButton = button("Stop", () => this.stop());
    this.goOnButton = button("Continue", () => this.goOn());
    this.contents = this.page();
    this.updateButtons();
    this.showHint();
  }

  appendTo(root) {
    fill(root, this.contents);
  }

  input(name, { value, min, max, step }) {
    return h("input", {
      id: `set-${name}`,
      type: "number",
      min,
      max,
      step: name === "temperature" ? "any" : step,
      value: Number.isFinite(Number(state.get(name, value))) ? state.get(name, value) : value,
      required: true,
    });
  }

  page() {
    const field = (name, { label, help }) =>
      h(
        "div",
        { class: "field" },
        help
          ? [term(help, label), h("label", { for: `set-${name}`, class: "hidden" }, label)]
          : h("label", { for: `set-${name}` }, label),
        this.settings[name],
      );
    const submit = (event) => {
      event.preventDefault();
      this.remember();
      this.begin();
    };
    const copy = h("button", { type: "button", onclick: () => this.copy() }, "Copy");
    return [
      h("h1", {}, "Write"),
      h(
        "p",
        { class: "intro" },
        "The model writes one ",
        term("token"),
        " after the other. It gives every token of its vocabulary a probability, and one of them is drawn. The color of a token is its ",
        term("surprise"),
        ".",
      ),
      h(
        "form",
        { class: "panel", onsubmit: submit },
        h("label", { for: "prompt" }, "Beginning of the text"),
        this.prompt,
        h(
          "div",
          { class: "fields" },
          Object.entries(SETTINGS).map(([name, setting]) => field(name, setting)),
        ),
        h("div", { class: "buttons" }, this.startButton, this.stopButton, this.goOnButton),
      ),
      this.error,
      h(
        "div",
        { class: "columns wide-left" },
        h(
          "section",
          { "aria-label": "The story" },
          h("h2", {}, "The story"),
          h("div", { class: "story", dir: "auto" }, this.promptText, this.text.element),
          this.facts,
          h("p", {}, this.look),
          legend(),
          h(
            "details",
            {},
            h("summary", {}, "The command that writes the same story"),
            h("p", { class: "command-row" }, this.command, copy, this.copied),
          ),
        ),
        h(
          "section",
          { "aria-label": "The choices at a token" },
          h("h2", {}, "The choices"),
          this.choices,
          h("h2", {}, "Branches"),
          this.tree,
        ),
      ),
    ];
  }

  remember() {
    const changes = { prompt: this.prompt.value };
    for (const [name, { value }] of Object.entries(SETTINGS)) {
      const given = Number(this.settings[name].value);
      changes[name] = given === value ? null : given;
    }
    state.set(changes);
  }

  /** Return what the server is asked, except where the story begins. */
  question() {
    const values = Object.fromEntries(Object.keys(SETTINGS).map((name) => [name, Number(this.settings[name].value)]));
    return { ...values, step: state.getInteger("step", 0, Infinity) };
  }

  /** Write the last story again with other weights. If nothing has been done with the last one, it is replaced. */
  again() {
    if (!this.branch) return;
    const last = this.roots.at(-1);
    if (last === this.branch && !last.children.length) this.roots.pop();
    this.begin();
  }

  begin() {
    const branch = new Branch(null, state.get("prompt", this.prompt.value), [], this.question());
    this.roots.push(branch);
    this.write(branch, this.question().max_new_tokens);
  }

  /** Go on from a token with another one. */
  take(index, [id, text, p]) {
    const { branch } = this;
    const there = branch.tokens[index];
    const bits = -Math.log2(p);
    const given = [...branch.tokens.slice(0, index), { ...there, id, text, p, bits, taken: true }];
    const child = new Branch(branch, branch.prompt, given, { ...branch.question });
    child.at = index;
    child.instead = there.text;
    this.write(child, branch.question.max_new_tokens);
    this.text.element.focus();
  }

  goOn() {
    if (this.branch)
      this.write(
        this.branch,
        this.branch.written + (Number(this.settings.max_new_tokens.value) || SETTINGS.max_new_tokens.value),
      );
  }

  stop() {
    this.run(async () => {});
    this.finish(this.branch?.end ?? "stopped");
  }

  finish(end) {
    if (this.writing && this.branch) {
      this.branch.end = end;
      announce(end === "stopped" ? "Stopped." : `${end[0].toUpperCase()}${end.slice(1)}.`);
    }
    this.writing = false;
    this.updateButtons();
    this.showFacts();
    this.showTree();
  }

  fail(error) {
    fill(this.error, error.message);
    this.finish("failed");
  }

  write(branch, most) {
    this.writing = true;
    branch.end = null;
    fill(this.error);
    this.open(branch);
    const skip = branch.written;
    const question = {
      ...branch.question,
      prompt: branch.prompt,
      ids: branch.given.map(({ id }) => id),
      skip,
      max_new_tokens: Math.min(MOST, most),
    };
    this.run(async (signal) => {
      for await (const line of lines("write", question, signal)) {
        if (line.prompt) {
          branch.command = line.command;
          fill(
            this.promptText,
            line.prompt
              .slice(0, line.prompt.length - branch.given.length)
              .map(([, text]) => text)
              .join(""),
          );
        } else if (line.end) {
          branch.end = line.end;
          if (line.rest && branch === this.branch) this.text.element.append(line.rest);
        } else {
          branch.tokens.push(line);
          if (branch === this.branch) this.text.append(line.text, this.className(line), this.tokenTitle(line));
        }
      }
      this.finish(branch.end);
    });
  }

  /** Show a branch. */
  open(branch) {
    this.branch = branch;
    this.updateButtons();
    fill(this.promptText, branch.prompt.trim() === "" ? "" : branch.prompt);
    this.text.show(
      branch.tokens.map(({ text }) => text),
      (i) => this.className(branch.tokens[i]),
      (i) => this.tokenTitle(branch.tokens[i]),
      null,
    );
    this.showHint();
    this.showFacts();
    this.showTree();
  }

  className(token) {
    return `${levelClass(token.bits)}${token.taken ? " taken" : ""}`;
  }

  tokenTitle(token) {
    const likeliest = token.top.slice(0, 5).map(([, text, p]) => `${visible(text)} ${percent(p)}`);
    return `${percent(token.p)}, ${surpriseTitle(token.bits)}\nLikeliest: ${likeliest.join(", ")}`;
  }

  updateButtons() {
    this.stopButton.disabled = !this.writing;
    this.goOnButton.disabled =
      this.writing || !this.branch || this.branch.end === "the story has ended" || this.branch.written >= MOST;
  }

  showFacts() {
    const { branch } = this;
    if (!branch) return;
    const bits = branch.tokens.map((token) => token.bits);
    const mean = bits.length
      ? `, ${number(bits.reduce((a, b) => a + b, 0) / bits.length, 2)} bits of surprise per token`
      : "";
    fill(this.facts, `${integer(branch.tokens.length)} tokens${mean}${branch.end ? `; ${branch.end}` : ""}.`);
    fill(this.command, branch.command);
    const start = (branch.prompt + branch.tokens.map(({ text }) => text).join("")).trimStart();
    const words = start
      .split(/(?<=\s)/)
      .slice(0, this.model.limit / 2)
      .join("")
      .trimEnd();
    this.look.href = `/inside?text=${encodeURIComponent(words)}${branch.question.step === null ? "" : `&step=${branch.question.step}`}`;
    this.look.hidden = words === "";
  }

  showHint() {
    fill(
      this.choices,
      h(
        "p",
        { class: "muted" },
        "Choose a token of the story to see what else could have stood there. Another choice starts a branch.",
      ),
    );
  }

  showChoices(index) {
    const token = this.branch.tokens[index];
    const kept = token.kept === 1 ? "1 token could be drawn" : `${integer(token.kept)} tokens could be drawn`;
    fill(
      this.choices,
      h(
        "p",
        {},
        h("b", { class: "mono" }, visible(token.text)),
        ` has a probability of ${percent(token.p)}: ${inBits(token.bits)} of surprise. ${kept}.`,
      ),
      alternatives(token.top, token.id, (other) => (other[0] === token.id ? null : this.take(index, other))),
    );
  }

  showTree() {
    const item = (branch) => {
      const current = branch === this.branch;
      const button = h(
        "button",
        {
          type: "button",
          "aria-current": current ? "true" : null,
          disabled: this.writing && !current,
          "data-key": `branch ${branch.number}`,
          onclick: () => this.open(branch),
        },
        branch.name,
      );
      return h("li", {}, button, branch.children.length ? h("ul", { class: "tree" }, branch.children.map(item)) : null);
    };
    fill(this.tree, this.roots.map(item));
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.branch?.command ?? "");
      fill(this.copied, "Copied.");
    } catch {
      getSelection().selectAllChildren(this.command);
      fill(this.copied, "Selected: copy it with the keyboard.");
    }
  }
}

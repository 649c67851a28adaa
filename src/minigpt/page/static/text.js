// A text in tokens, one of which can be chosen with the mouse or the arrow keys.

import { level } from "./colors.js";
import { fill, h, inBits, percent, visible } from "./dom.js";

/**
 * A text in tokens. `onChoose(index)` is called when a token is chosen; `first` is the first token that can be.
 * `show(tokens, classOf, titleOf, chosen)` draws it again.
 */
export class TokenText {
  constructor(label, onChoose, first = 0) {
    this.onChoose = onChoose;
    this.first = first;
    this.count = 0;
    this.chosen = null;
    this.element = h("div", {
      class: "tokens",
      role: "listbox",
      "aria-label": label,
      "aria-orientation": "horizontal",
      tabindex: "0",
      onkeydown: (event) => this.key(event),
      onclick: (event) => {
        const token = event.target.closest("[data-index]");
        if (token) this.choose(Number(token.dataset.index));
      },
    });
  }

  show(tokens, classOf, titleOf = () => null, chosen = this.chosen) {
    this.count = tokens.length;
    this.chosen = chosen;
    fill(
      this.element,
      tokens.map((text, i) => (i < this.first ? null : this.span(text, i, classOf(i), titleOf(i)))),
    );
    this.mark();
  }

  /** Append a token, without drawing the others again. */
  append(text, className, title) {
    this.element.append(this.span(text, this.count, className, title));
    this.count += 1;
  }

  span(text, index, className, title) {
    const lines = text.split("\n");
    const shown = lines.flatMap((line, i) => (i === 0 ? [line] : [h("span", { class: "newline" }), "\n", line]));
    const id = `${this.id ?? (this.id = `text-${Math.random().toString(36).slice(2, 8)}`)}-${index}`;
    return h(
      "span",
      { id, role: "option", "data-index": index, class: `token ${className}`, title, "aria-selected": "false" },
      ...shown,
    );
  }

  /** Return the element of a token. */
  token(index) {
    return this.element.querySelector(`[data-index="${index}"]`);
  }

  choose(index) {
    if (index < this.first || index >= this.count) return;
    this.chosen = index;
    this.mark();
    this.onChoose(index);
  }

  mark() {
    for (const old of this.element.querySelectorAll('[aria-selected="true"]'))
      old.setAttribute("aria-selected", "false");
    const token = this.chosen === null ? null : this.token(this.chosen);
    token?.setAttribute("aria-selected", "true");
    if (token) this.element.setAttribute("aria-activedescendant", token.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
    const last = this.count - 1;
    const target =
      { Home: this.first, End: last }[event.key] ??
      (event.key in steps ? (this.chosen ?? this.first - 1) + steps[event.key] : null);
    if (target === null) return;
    event.preventDefault();
    this.choose(Math.max(this.first, Math.min(last, target)));
  }
}

/** Return the class of a token with this surprise. */
export const levelClass = (bits) => (bits === null ? "level-none" : `level-${level(bits)}`);

/** Return the explanation of the colors of surprise. */
export function legend() {
  const names = ["under 0.5", "0.5 to 1", "1 to 2", "2 to 4", "4 to 8", "8 bits and more"];
  return h(
    "p",
    { class: "legend" },
    h("span", { class: "hidden" }, "Surprise in bits: "),
    names.map((name, i) => [h("span", { class: `token level-${i}` }, name), " "]),
  );
}

/**
 * Return the likeliest tokens as a list of bars. Each is [id, text, probability, probability after the cuts of the sampling];
 * the last one may be missing. `onTake(token)` makes buttons of them.
 */
export function alternatives(likeliest, actual, onTake = null) {
  const largest = likeliest[0][2];
  return h(
    "ol",
    { class: "bars" },
    likeliest.map((token) => {
      const [id, text, p, q] = token;
      const cut = q === 0;
      const name = h("span", { class: "bar-name" }, visible(text));
      const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("span", { class: "bar-fill" }));
      bar.firstChild.style.width = `${(100 * p) / largest}%`;
      const after = q === undefined ? null : h("span", { class: "bar-note" }, cut ? "cut" : `drawn: ${percent(q)}`);
      const content = [name, bar, h("span", { class: "bar-value" }, percent(p)), after];
      const label = `${visible(text)}, ${percent(p)}${cut ? ", cut by the sampling" : ""}${id === actual ? ", the token of the text" : ""}`;
      const inner = onTake
        ? h(
            "button",
            { type: "button", class: "bar-row", "aria-label": `Go on with ${label}`, onclick: () => onTake(token) },
            content,
          )
        : h("span", { class: "bar-row", title: label }, content);
      return h("li", { class: [id === actual ? "actual" : "", cut ? "cut" : ""].join(" ").trim() || null }, inner);
    }),
  );
}

/** Return the title of a token: its surprise and, if it is known, that of the storybook. */
export const surpriseTitle = (bits, known) =>
  bits === null
    ? null
    : `${inBits(bits)} of surprise${known === null || known === undefined ? "" : `; ${inBits(known)} under the grammar of the storybook`}`;

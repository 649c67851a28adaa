// The stories of the view "Write", and their branches.

import { integer, visible } from "./dom.js";

/** A story, or a branch of one: what was asked for, and the tokens that are there. */
export class Branch {
  constructor(parent, prompt, given, question) {
    Object.assign(this, { parent, prompt, given, question, tokens: [...given], end: null, command: "", step: null });
    this.children = [];
    this.number = Branch.count++;
    parent?.children.push(this);
  }

  static count = 0;

  /** The number of tokens that were generated, without those that were given. */
  get written() {
    return this.tokens.length - this.given.length;
  }

  /** The name of the branch in the tree. */
  get name() {
    if (this.parent) {
      return `“${visible(this.given.at(-1).text)}” instead of “${visible(this.instead)}”, token ${integer(this.at + 1)}`;
    }
    const start =
      this.prompt.trim() ||
      this.tokens
        .slice(0, 6)
        .map(({ text }) => text)
        .join("");
    const step = this.question.step === null ? "" : `, step ${integer(this.question.step)}`;
    return `“${start.slice(0, 40)}…”, seed ${this.question.seed}${step}`;
  }
}

// The view "Tokens": a text in pieces, and the merges in the order in which they were learned.

import { ask, latest } from "./api.js";
import { afterPause, fill, h, integer, visible } from "./dom.js";
import { term } from "./glossary.js";
import * as state from "./state.js";
import { TokenText } from "./text.js";

export const title = "Tokens";
export const hasTime = false;
const MERGES = 60;

export function show(root, model) {
  const input = h("textarea", {
    id: "tokens-text",
    rows: 3,
    value: state.get("text", model.example),
    spellcheck: "false",
  });
  const summary = h("p", { class: "muted", role: "status" });
  const table = h("tbody");
  let found = [];
  const mark = (i) => [...table.rows].forEach((row, n) => row.classList.toggle("chosen", n === i));
  const text = new TokenText("The tokens of the text", (i) => {
    mark(i);
    table.closest(".scroll").scrollTop = table.rows[i].offsetTop - 60;
  });
  const error = h("p", { class: "error", role: "alert" });
  const run = latest((problem) => fill(error, problem.message));
  const read = () =>
    run(async (signal) => {
      const answer = await ask("tokens", { text: input.value }, signal);
      found = answer.tokens;
      fill(error);
      const ratio = found.length ? ` ${(answer.bytes / found.length).toFixed(2)} bytes per token.` : "";
      fill(summary, `${integer(found.length)} tokens for ${integer(answer.bytes)} bytes.${ratio}`);
      text.show(
        found.map((token) => token.text),
        (i) => `stripe-${i % 3}`,
        (i) => `id ${found[i].id}`,
        null,
      );
      fill(table, found.map(row));
    });
  input.addEventListener(
    "input",
    afterPause(150, () => {
      state.set({ text: input.value });
      read();
    }),
  );
  fill(
    root,
    h("h1", {}, "Tokens"),
    h(
      "p",
      { class: "intro" },
      "The model reads ",
      term("token", "tokens"),
      `, not letters: pieces of text from a vocabulary of ${integer(model.vocabulary)}.`,
    ),
    h("label", { for: "tokens-text" }, "Text"),
    input,
    error,
    h(
      "div",
      { class: "columns" },
      h(
        "section",
        { "aria-label": "The text in tokens" },
        h("h2", {}, "In tokens"),
        summary,
        text.element,
        h(
          "div",
          { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Table of the tokens" },
          h(
            "table",
            { class: "list" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["token", "id", "bytes"].map((name) => h("th", { scope: "col" }, name)),
              ),
            ),
            table,
          ),
        ),
      ),
      mergesSection(),
    ),
  );
  read();
}

const row = (token) =>
  h(
    "tr",
    {},
    h("td", { class: "mono" }, visible(token.text)),
    h("td", {}, integer(token.id)),
    h("td", { class: "mono" }, token.bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")),
  );

/** Return the list of merges, which grows on demand. */
function mergesSection() {
  const list = h("ol", { class: "merges" });
  const status = h("p", { class: "muted" });
  const more = h("button", { type: "button", onclick: () => load() }, "Show more");
  const load = async () => {
    const start = list.children.length;
    const answer = await ask("merges", { start, count: MERGES }).catch((error) => ({
      problem: error.message,
      merges: [],
      total: 0,
    }));
    list.append(
      ...answer.merges.map(([left, right]) =>
        h(
          "li",
          {},
          h("span", { class: "mono" }, visible(left), " + ", visible(right), " → "),
          h("b", { class: "mono" }, visible(left + right)),
        ),
      ),
    );
    fill(
      status,
      answer.problem ??
        (answer.total
          ? `${integer(list.children.length)} of ${integer(answer.total)} merges, in the order in which they were learned.`
          : "This tokenizer has no merges: its tokens are single bytes or characters."),
    );
    more.hidden = list.children.length >= answer.total;
  };
  load();
  return h(
    "section",
    { "aria-label": "Merges" },
    h("h2", {}, "How the vocabulary was learned"),
    h("p", {}, "Each ", term("merge"), " joins two tokens into a new one. Frequent pairs come first."),
    status,
    list,
    more,
  );
}

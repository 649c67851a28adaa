// The logit lens.

import { h, integer, percent, visible } from "./dom.js";

/** Return the logit lens as a table: the tokens are the columns, the layers the rows. `onChoose(position)` chooses a token. */
export function lensTable({ lens, tokens }, onChoose) {
  const rowOf = (cells, layer) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, layer === 0 ? "embedding" : `block ${layer - 1}`),
      tokens.slice(1).map((token, t) => {
        const { best, p, rank } = cells[t];
        const [text, probability] = best[0];
        const right = text === token;
        const cell = h(
          "td",
          {
            "data-position": t + 1,
            class: `${right ? "right" : ""}`,
            title: `${best.map(([other, q]) => `${visible(other)} ${percent(q)}`).join(", ")}. “${visible(token)}”: ${percent(p)}, rank ${integer(rank)}`,
          },
          h("span", { class: "lens-text" }, visible(text)),
          h("span", { class: "lens-p" }, percent(probability)),
        );
        cell.style.setProperty("--p", `${Math.round(100 * Math.sqrt(probability))}%`);
        cell.addEventListener("click", () => onChoose(t + 1));
        return cell;
      }),
    );
  const head = h(
    "tr",
    {},
    h("td"),
    tokens
      .slice(1)
      .map((token, t) =>
        h(
          "th",
          { scope: "col", class: "mono" },
          h("button", { type: "button", class: "plain", onclick: () => onChoose(t + 1) }, visible(token)),
        ),
      ),
  );
  return h(
    "table",
    { class: "lens" },
    h("thead", {}, head),
    h(
      "tbody",
      {},
      lens.map((cells, layer) => rowOf(cells, layer)),
    ),
  );
}

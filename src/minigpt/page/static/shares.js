// The shares of the parts of the model in a logit, and the names of the parts.

import { h, number, visible } from "./dom.js";

/**
 * Return the shares of the parts of the model in a logit as a list of bars. `off` are the names of the parts that are switched
 * off, and `onToggle(name)` switches one, if that is possible.
 */
export function sharesOf({ token, logit, shares }, off, onToggle) {
  const largest = Math.max(...shares.map(([, share]) => Math.abs(share)));
  const row = ([name, share]) => {
    const bar = h(
      "span",
      { class: `bar signed ${share < 0 ? "negative" : "positive"}`, "aria-hidden": "true" },
      h("span", { class: "bar-fill" }),
    );
    bar.firstChild.style.width = `${(50 * Math.abs(share)) / largest}%`;
    const part = /heads\.\d+$|feed_forward$/.test(name) ? name : null;
    const label = h("span", { class: "bar-name" }, partName(name));
    const value = h("span", { class: "bar-value" }, number(share, 3));
    const content = [label, bar, value];
    return h(
      "li",
      { class: off.has(name) ? "cut" : null },
      part && onToggle
        ? h(
            "button",
            {
              type: "button",
              class: "bar-row",
              "aria-pressed": String(off.has(name)),
              "data-key": `share ${name}`,
              title: "Switch it off or on",
              onclick: () => onToggle(name),
            },
            content,
          )
        : h("span", { class: "bar-row" }, content),
    );
  };
  return [
    h("p", {}, "The logit of ", h("b", { class: "mono" }, visible(token)), ` is ${number(logit, 4)}, the sum of:`),
    h("ol", { class: "bars shares" }, shares.map(row)),
    onToggle ? h("p", { class: "muted" }, "Click a head or a feed-forward network to switch it off.") : null,
  ];
}

/** Return the name of a part of the model as text. */
export function partName(name) {
  const [, block, rest] = name.match(/^blocks\.(\d+)\.(.*)$/) ?? [null, null, name];
  const names = {
    residual_mid: "after attention",
    residual_post: "after feed-forward",
    feed_forward: "feed-forward",
    "attention.out.bias": "attention bias",
    "final_norm.beta": "beta of the final norm",
  };
  const head = rest.match(/^attention\.heads\.(\d+)$/);
  const shown = head ? `head ${head[1]}` : (names[rest] ?? rest.replaceAll("_", " ").replaceAll(".", " "));
  return block === null ? shown : `block ${block}, ${shown}`;
}

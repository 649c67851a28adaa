// Short explanations of terms, shown on demand.

import { h } from "./dom.js";

const TERMS = {
  token: "A piece of text that the model reads and writes as a unit: a word, a part of one, or a punctuation mark.",
  surprise:
    "−log₂ of the probability that the model gave to the token: 1 bit for a probability of 1/2, 4 bits for 1/16. A token that was certain has 0 bits.",
  temperature:
    "The logits are divided by it. Below 1, likely tokens become more likely; at 0, the likeliest token is always taken.",
  "top-k": "Only this many of the likeliest tokens can be chosen. 0 means all of them.",
  "top-p":
    "Only the likeliest tokens can be chosen: as few as are needed for their probabilities to add up to at least this number.",
  "min-p": "Only tokens whose probability is at least this fraction of the highest one can be chosen.",
  seed: "The number from which the random numbers are generated. The same seed with the same settings gives the same story.",
  head: "A part of attention that decides on its own which earlier tokens it looks at.",
  attention:
    "Each position takes information from itself and from earlier positions. The weights say how much it takes from each; the weights of a position add up to 1.",
  "logit lens":
    "What the model would predict if it ended after a block: the final norm and the LM head are applied to the residual stream there.",
  "residual stream":
    "The vector of each position, to which every block adds its results. The last one becomes the prediction.",
  attribution:
    "The logit of a token is a sum, to which each head and each feed-forward network contributes a share, if the scale of the final norm is held fixed.",
  logit: "The score of a token. Softmax turns the scores of all tokens into probabilities.",
  gradient:
    "For each number of the model, how fast the loss changes when that number increases. Training changes the parameters in the opposite direction.",
  loss: "−ln of the probability that the model gave to the right token, in nats; the mean over all tokens if none is chosen.",
  norm: "The length of a vector: the square root of the sum of the squares of its elements.",
  snapshot:
    "The weights of the model after a step of the training, kept so that the model can be looked at as it was then.",
  moments:
    "Running averages of the gradients of earlier steps (m), and for AdamW of their squares (v), from which the optimizer computes the update.",
  floor: "The entropy of the text. On average, no model can have a lower loss, because what remains is chance.",
  "learning rate": "How far each step of the training changes the parameters.",
  "bits per byte":
    "The average number of bits that the model needs for a byte of text. Unlike the loss per token, it can be compared between models with different tokenizers.",
  merge:
    "Byte pair encoding starts from single bytes. Again and again, the pair of neighbors that is most frequent becomes a new token.",
  nudge:
    "To change a single number a little and compute the loss again. If the gradient is right, the loss changes by about what it predicts.",
};

/** Return a word with a button that shows what it means. */
export function term(name, shown = name) {
  const id = `term-${name.replace(/\W/g, "-")}-${Math.random().toString(36).slice(2, 8)}`;
  const note = h(
    "span",
    { id, popover: "auto", class: "note-popover", role: "note" },
    h("b", {}, name),
    ` ${TERMS[name]}`,
  );
  const button = h(
    "button",
    { type: "button", class: "term", popovertarget: id, "aria-label": `${shown}: what is this?` },
    shown,
  );
  note.addEventListener("toggle", () => {
    const place = button.getBoundingClientRect();
    note.style.left = `${Math.max(8, Math.min(place.left, innerWidth - note.offsetWidth - 8))}px`;
    note.style.top = `${Math.min(place.bottom + 6, innerHeight - note.offsetHeight - 8)}px`;
  });
  return [button, note];
}

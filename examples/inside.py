"""Find out how a small model remembers the names in a story, with traces, patches and snapshots.

    minigpt train
    python examples/inside.py runs/storybook-quick

Prints the tables of docs/inside.md and draws its figure. All numbers are means over stories that the model has not seen.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import minigpt
from minigpt import GPT, Tokenizer
from minigpt.data import storybook
from minigpt.data.storybook.words import WORDS
from minigpt.np.trace import Trace

NAMES = [word.forms["word"] for kind in ("child", "petname") for word in WORDS[kind]]


@dataclass
class Stories:
    """Stories as tokens (B, T), and where in them names are, as targets."""

    tokens: np.ndarray
    targets: np.ndarray
    first: np.ndarray
    "(B, T): whether the target is a name that the story has not mentioned before."
    again: np.ndarray
    "(B, T): whether the target is a name that the story has mentioned before, which the model could copy."


def read_stories(tokenizer: Tokenizer, count: int, length: int) -> Stories:
    """Return the first tokens of validation stories, each after an end-of-text token."""
    name_tokens = {ids[0] for name in NAMES if len(ids := tokenizer.encode(f" {name}")) == 1}
    rows = []
    for story in storybook.stories(count, split="valid"):
        ids = [tokenizer.end_of_text, *tokenizer.encode(story.text), *[tokenizer.end_of_text] * length]
        rows.append(ids[: length + 1])
    ids = np.array(rows)
    tokens, targets = ids[:, :-1], ids[:, 1:].copy()
    targets[tokens == tokenizer.end_of_text] = -100
    targets[:, 0] = ids[:, 1]
    name = np.isin(targets, list(name_tokens))
    known = np.array(
        [[target in row[: t + 1] for t, target in enumerate(goals)] for row, goals in zip(tokens, targets, strict=True)]
    )
    return Stories(tokens, targets, name & ~known, name & known)


def losses(model: GPT, stories: Stories, patch: dict | None = None) -> np.ndarray:
    """Return the loss of each token in bits, (B, T). A few stories at a time, because a trace keeps every array."""
    parts = [model.trace(t, g, patch=patch, gradients=False).surprise() for t, g in in_parts(stories)]
    return np.concatenate(parts)


def in_parts(stories: Stories, size: int = 8) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(stories.tokens), size):
        yield stories.tokens[start : start + size], stories.targets[start : start + size]


def without_head(block: int, head: int) -> dict:
    """Return the patch that sets the result of a head to zero."""

    def zero(heads: np.ndarray) -> np.ndarray:
        heads[:, head] = 0
        return heads

    return {f"blocks.{block}.attention.heads": zero}


def attention_to_name(model: GPT, stories: Stories) -> np.ndarray:
    """Return the attention (L, H) from the token before a name that is mentioned again to where the name was before."""
    c = model.config
    total, count = np.zeros((c.n_layers, c.n_heads)), 0
    start = 0
    for tokens, targets in in_parts(stories):
        t = model.trace(tokens, targets, gradients=False)
        for b, position in zip(*np.nonzero(stories.again[start : start + len(tokens)]), strict=True):
            earlier = tokens[b, : position + 1] == targets[b, position]
            for i in range(c.n_layers):
                total[i] += t[f"blocks.{i}.attention.weights"][b, :, position, : position + 1][:, earlier].sum(-1)
            count += 1
        start += len(tokens)
    return total / count


def head_of(other: Trace, block: int, head: int) -> dict:
    """Return the patch that takes the result of a head at the last token from another trace."""
    name = f"blocks.{block}.attention.heads"

    def replace(heads: np.ndarray) -> np.ndarray:
        heads[:, head, -1] = other[name][:, head, -1]
        return heads

    return {name: replace}


def swap_names(model: GPT, tokenizer: Tokenizer, stories: Stories) -> np.ndarray:
    """Return how much each head (L, H) moves the prediction from one name to another.

    Each story is also read with another name in place of the name that follows. The result of one head, at the last token, is
    then taken from that reading. Returned is the change of log2(P(other) / P(name)), as a fraction of the change between the two
    readings.
    """
    c, rng = model.config, np.random.default_rng(0)
    name_tokens = sorted({ids[0] for name in NAMES if len(ids := tokenizer.encode(f" {name}")) == 1})
    moved, whole = np.zeros((c.n_layers, c.n_heads)), 0.0
    for b in range(len(stories.tokens)):
        positions = np.flatnonzero(stories.again[b])
        if not positions.size:
            continue
        end = positions[-1] + 1
        tokens, name = stories.tokens[b : b + 1, :end], int(stories.targets[b, end - 1])
        other = int(rng.choice([token for token in name_tokens if token not in tokens]))
        swapped = model.trace(np.where(tokens == name, other, tokens), gradients=False)

        def preference(trace: Trace, other: int = other, name: int = name) -> float:
            return float(trace["logits"][0, -1, other] - trace["logits"][0, -1, name]) / np.log(2)

        before = preference(model.trace(tokens, gradients=False))
        whole += preference(swapped) - before
        for i in range(c.n_layers):
            for h in range(c.n_heads):
                patch = head_of(swapped, i, h)
                moved[i, h] += preference(model.trace(tokens, gradients=False, patch=patch)) - before
    return moved / whole


def table(title: str, values: np.ndarray, form: str = ">+9.2f") -> str:
    """Return a table of one number for each head."""
    header = f"{title:44}" + "".join(f"{f'head {h}':>9}" for h in range(values.shape[1]))
    rows = [f"{f'block {i}':44}" + "".join(f"{value:{form}}" for value in row) for i, row in enumerate(values)]
    return "\n".join([header, *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="How does a small model remember names?")
    parser.add_argument("run", nargs="?", default="runs/storybook-quick", help="run (default: runs/storybook-quick)")
    parser.add_argument("--stories", type=int, default=64, help="number of stories (default: 64)")
    parser.add_argument("--figure", help="file for the figure (.svg or .png)")
    args = parser.parse_args()

    run = minigpt.open_run(args.run)
    model, tokenizer = run.model, run.tokenizer
    stories = read_stories(tokenizer, args.stories, model.config.context_length)
    first, again = stories.first, stories.again
    bits = losses(model, stories)
    others = np.isfinite(bits) & ~first & ~again
    print(f"{args.stories} stories; names: {first.sum()} mentioned for the first time, {again.sum()} mentioned again")
    means = [bits[where].mean() for where in (first, again, others)]
    print(f"bits per token: first {means[0]:.2f}, again {means[1]:.2f}, other tokens {means[2]:.2f}\n")

    c = model.config
    ablated = {(i, h): losses(model, stories, without_head(i, h)) for i in range(c.n_layers) for h in range(c.n_heads)}
    shape = (c.n_layers, c.n_heads)
    on_names = np.array([x[again].mean() - bits[again].mean() for x in ablated.values()]).reshape(shape)
    on_others = np.array([x[others].mean() - bits[others].mean() for x in ablated.values()]).reshape(shape)
    print(table("without a head: bits more per known name", on_names))
    print(table("without a head: bits more per other token", on_others))
    attention = attention_to_name(model, stories)
    print(table("attention to the earlier name", attention, ">9.2f"))
    print(table("prediction moved to the name of another text", swap_names(model, tokenizer, stories), ">9.2f"))

    block, head = np.unravel_index(on_names.argmax(), shape)
    print(f"the head without which known names cost most: block {block}, head {head}\n")
    print(f"{'step':>6}{'first':>9}{'again':>9}{'others':>9}{'attention':>11}{'without':>9}")
    curve = []
    for step in run.snapshots:
        model = run.model_at(step)
        bits = losses(model, stories)
        without = losses(model, stories, without_head(int(block), int(head)))
        attention = attention_to_name(model, stories)[block, head]
        row = (step, *(bits[where].mean() for where in (first, again, others)), attention, without[again].mean())
        curve.append(row)
        print(f"{row[0]:>6}" + "".join(f"{value:>9.2f}" for value in row[1:4]) + f"{row[4]:>11.3f}{row[5]:>9.2f}")
    if args.figure:
        draw(np.array(curve), args.figure)


def draw(curve: np.ndarray, path: str) -> None:
    """Draw the bits per name, and the attention of the head, over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    bits, attention = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    steps = curve[:, 0]
    for column, label, style in (
        (1, "names, first mention", "o-"),
        (2, "names, mentioned again", "s-"),
        (3, "other tokens", "^-"),
    ):
        bits.plot(steps, curve[:, column], style, label=label, markersize=4)
    bits.plot(steps, curve[:, 5], "s--", color="gray", label="mentioned again, without the head", markersize=4)
    attention.plot(steps, curve[:, 4], "s-", color="C1", markersize=4)
    bits.set_ylabel("bits per token")
    attention.set_ylabel("attention of the head\nto the earlier name")
    attention.set_xlabel("step")
    attention.set_xscale("symlog", base=2, linthresh=1)  # a logarithmic scale that has room for step 0
    attention.set_xticks([0, *(2**i for i in range(0, int(np.log2(max(steps[-1], 1))) + 1, 2))])
    attention.xaxis.set_major_formatter("{x:,.0f}")
    bits.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()

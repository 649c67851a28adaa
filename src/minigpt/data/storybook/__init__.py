"""The storybook: a generator of short stories for small children.

It is the built-in corpus. It needs no download, and the probability of every story is known.

>>> from minigpt.data import storybook
>>> first, second = storybook.stories(2, seed=7)
>>> first.text == second.text
False
>>> first == next(storybook.stories(1, seed=7))
True

Every story is generated from one of the plots in the files `plots_*.py`. A plot is a template (`engine.py` documents its
three kinds of marks) whose roles are filled with words from `words.py`, and which can use the phrases in `phrases.py`. To add
a plot, write an entry like this one in one of the `plots_*.py` files, and increment `VERSION`:

    "the lost hat": Plot(
        "hero: child",
        \"\"\"
        <once child> {He} had {a colour} hat. <windy day>, the wind [took|stole] it. <sad>

        {grownup} found it [in a tree|on a fence]. <thanks grownup> <end>
        \"\"\",
    ),

All choices are uniform and independent, so the probability of a derivation is 1 over the product of the numbers of options.
The grammar is unambiguous (tests/data/test_storybook_proof.py proves that no text has two derivations), so this is the
probability of the text as well: `EXACT` is True.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from minigpt.data.storybook import plots_animals, plots_friends, plots_home, plots_outdoors
from minigpt.data.storybook.engine import Choice, Compiler, Derivation, Plot
from minigpt.data.storybook.phrases import PHRASES
from minigpt.data.storybook.words import WORDS

VERSION = 1  # increment it with each change of the stories; it is part of the seed
EXACT = True  # `Story.bits` is exact, not a bound
SPLITS = ("train", "valid")
VALID_EVERY = 20  # one story in 20 belongs to "valid"

_PLOTS: dict[str, Plot] = plots_home.PLOTS | plots_outdoors.PLOTS | plots_animals.PLOTS | plots_friends.PLOTS
PLOTS: tuple[str, ...] = tuple(_PLOTS)


@dataclass(frozen=True, slots=True)
class Story:
    """A story and its information content: `bits` is -log2 of the probability of `text` under the grammar."""

    text: str
    bits: float


def stories(count: int, seed: int = 0, split: str = "train") -> Iterator[Story]:
    """Generate `count` stories. Story number i depends only on `seed`, `split` and i, on every platform.

    A hash of the text determines the split of a story (one in twenty is in "valid"), so "train" and "valid" have no story in
    common, whatever the seeds. `bits` is the information content under the entire grammar. Given the split, it is smaller by
    log2(20) = 4.3 bits per "valid" story (0.07 per "train" story), about 0.005 bits per byte. A model could gain that only by
    learning the hash, so the entropy of the entire grammar is the practical lower bound.

    Raises ValueError for a negative count or an unknown split.

    >>> [story.text.count("{") for story in stories(3)]
    [0, 0, 0]
    """
    if count < 0:
        raise ValueError(f"count is {count}, but the number of stories must be 0 or more")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, but must be one of {', '.join(map(repr, SPLITS))}")
    return (_story(f"storybook {VERSION} {seed} {split} {number}", split) for number in range(count))


def _story(key: str, split: str) -> Story:
    random = Random(key).random  # all versions of Python seed from a string, and compute random(), in the same way
    while True:
        derivation = Derivation(random)
        _grammar().expand(derivation)
        text = "".join(derivation.parts)
        if _split_of(text) == split:
            return Story(text, math.log2(derivation.inverse_probability))


def _split_of(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")
    return "train" if number % VALID_EVERY else "valid"


@cache
def _grammar() -> Choice:
    """Return the choice of all plots, which is compiled when the first story is generated."""
    compiler = Compiler(WORDS, PHRASES)
    return Choice(tuple(compiler.compile(plot) for plot in _PLOTS.values()))

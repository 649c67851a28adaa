"""The storybook: small stories for small children, made up as you read them, in any number.

It is the built-in corpus: no download, no licence to mind, and it knows how surprising each of its stories is.

>>> from minigpt.data import storybook
>>> first, second = storybook.stories(2, seed=7)
>>> first.text == second.text
False
>>> first == next(storybook.stories(1, seed=7))
True

Every story follows one of the plots in the files `plots_*.py`. A plot is a template (`engine.py` explains the three marks it
may use); its roles are played by words from `words.py`, and it shares phrases with other plots (`phrases.py`). To add a plot,
put ten lines like these into one of the `plots_*.py` files, and raise `VERSION`:

    "the lost hat": Plot(
        "hero: child",
        \"\"\"
        <once child> {He} had {a colour} hat. <windy day>, the wind [took|stole] it. <sad>

        {grownup} found it [in a tree|on a fence]. <thanks grownup> <end>
        \"\"\",
    ),

All choices are uniform and independent, so the probability of a story is 1 over the product of the sizes of its choices.
No text can be told in two ways (tests/data/test_storybook_proof.py proves it for the whole grammar), so this is the exact
probability of the text: `EXACT`.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from minigpt.data.storybook import plots_animals, plots_friends, plots_home, plots_outdoors
from minigpt.data.storybook.engine import Choice, Compiler, Plot, Tale
from minigpt.data.storybook.phrases import PHRASES
from minigpt.data.storybook.words import WORDS

VERSION = 1  # raise it with each change of the stories: the same seed then tells other ones
EXACT = True  # `Story.bits` is exact, not a bound
SPLITS = ("train", "valid")
VALID_SHARE = 20  # one story in so many belongs to "valid"

_PLOTS: dict[str, Plot] = plots_home.PLOTS | plots_outdoors.PLOTS | plots_animals.PLOTS | plots_friends.PLOTS
PLOTS: tuple[str, ...] = tuple(_PLOTS)


@dataclass(frozen=True, slots=True)
class Story:
    """A story and its information: `bits` = -log2 of the probability that the grammar tells this `text`."""

    text: str
    bits: float


def stories(count: int, seed: int = 0, split: str = "train") -> Iterator[Story]:
    """Tell `count` stories. Story number i depends on `seed`, `split` and i alone, on every platform.

    A hash of the text says which split a story belongs to (one in twenty to "valid"), so "train" and "valid" never share
    a story, whatever the seeds. `bits` is the information under the whole grammar. Given the split, it is less by
    log2(20) = 4.3 bits a "valid" story (0.07 a "train" one), about 0.005 bits a byte; but only who knows the hash can
    use that, so for a learner the whole grammar is the floor.

    Errors: `ValueError` for a negative count or an unknown split.

    >>> [story.text.count("{") for story in stories(3)]
    [0, 0, 0]
    """
    if count < 0:
        raise ValueError(f"count is {count}, but the number of stories must be 0 or more")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, but must be one of {', '.join(map(repr, SPLITS))}")
    return (_story(f"storybook {VERSION} {seed} {split} {number}", split) for number in range(count))


def _story(key: str, split: str) -> Story:
    random = Random(key).random  # Python keeps the seeding by a string and random() the same in all its versions
    while True:
        tale = Tale(random)
        _library().tell(tale)
        text = "".join(tale.parts)
        if _split_of(text) == split:
            return Story(text, math.log2(tale.ways))


def _split_of(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")
    return "train" if number % VALID_SHARE else "valid"


@cache
def _library() -> Choice:
    """All plots as one choice; compiled when the first story is told."""
    compiler = Compiler(WORDS, PHRASES)
    return Choice(tuple(compiler.compile(plot) for plot in _PLOTS.values()))

"""Tests of the storybook: its stories, its splits and its probabilities."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from minigpt.data import storybook
from minigpt.data.storybook import Story, engine, stories
from minigpt.data.storybook.engine import Choice, Compiler, Derivation, Node, Plot, Sequence
from minigpt.data.storybook.words import WORDS, plain

MANY = 20_000


@pytest.fixture(scope="module")
def sample() -> list[Story]:
    return list(stories(MANY))


# The stories


def test_stories_differ(sample: list[Story]) -> None:
    assert len({story.text for story in sample}) == MANY


def test_vocabulary_is_large_enough(sample: list[Story]) -> None:
    words = Counter(word for story in sample for word in re.findall(r"[a-z]+", story.text.lower()))
    assert sum(count >= 10 for count in words.values()) >= 900


def test_lengths(sample: list[Story]) -> None:
    lengths = sorted(len(story.text.split()) for story in sample)
    assert lengths[0] >= 90
    assert lengths[-1] <= 250
    assert all(2 <= len(story.text.split("\n")) <= 5 for story in sample)


@pytest.mark.parametrize(
    "defect",
    [
        r"[{}\[\]|<>~\d]",  # leftovers of the template language
        r"  | \n|\n |\n\n|^\s|\s$",  # white space
        r" [,.!?;:]",  # a space before a punctuation mark
        r"[.!?,][.!?,]|[.!?,]\"[.,!?]",  # two punctuation marks in a row
        r"[a-z] \"[a-z]",  # speech that does not begin with a capital
        r"[^.!?:\"]$",  # a story that does not end with a full stop
        r"(^|[.!?\n] )[a-z](?!\S*\")",  # a sentence that does not begin with a capital
        r"\b[Aa] [aeiouAEIOU]",
        r"\b[Aa]n [^aeiouAEIOUh]",
        r"\b(\w+) \1\b(?<!went on and on)",  # a repeated word
    ],
)
def test_stories_have_no_defects(sample: list[Story], defect: str) -> None:
    allowed = r"(\"[^\"]*\"|[?!]\" )"  # after speech, a sentence may continue: "Look!" he said.
    for story in sample[:5000]:
        text = re.sub(allowed, '"Said" ', story.text) if defect.startswith(("(^", r"[a-z] \"")) else story.text
        assert not (found := re.search(defect, text)), story.text[max(0, found.start() - 40) : found.end() + 40]


def test_quotes_are_balanced(sample: list[Story]) -> None:
    assert all(part.count('"') % 2 == 0 for story in sample for part in story.text.split("\n"))


def test_pronouns_agree(sample: list[Story]) -> None:
    """A story whose characters are all female contains no "he" or "his", and vice versa."""
    gender = {
        word.forms["word"]: word.forms["he"]
        for kind in ("child", "petname", "grownup", "neighbor", "teacher")
        for word in WORDS[kind]
    }
    names = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in gender))
    seen: Counter[str] = Counter()
    for story in sample:
        genders = {gender[name] for name in names.findall(story.text)}
        if len(genders) == 1 and "snowman" not in story.text:  # the snowman is "he"
            (only,) = genders
            seen[only] += 1
            wrong = r"\b(he|his|him|himself|boy)\b" if only == "she" else r"\b(she|her|herself|girl)\b"
            assert not re.search(wrong, story.text, re.IGNORECASE), story.text
    assert min(seen["he"], seen["she"]) > 500


# Seeds and splits


def test_a_story_depends_on_its_number_only() -> None:
    assert list(stories(3)) == list(stories(5))[:3]
    assert list(stories(5, seed=1)) != list(stories(5, seed=2))


def test_the_stories_of_this_version() -> None:
    """If a change alters any story, this test fails: increment VERSION."""
    text = "\n\n".join(story.text for split in storybook.SPLITS for story in stories(10, seed=0, split=split))
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    assert (storybook.VERSION, digest) == (1, "e218048eb42efebd")


def test_splits_are_disjoint(sample: list[Story]) -> None:
    valid = {story.text for seed in range(3) for story in stories(100, seed=seed, split="valid")}
    assert len(valid) == 300
    assert valid.isdisjoint(story.text for story in sample)
    assert {storybook._split_of(text) for text in valid} == {"valid"}


def test_one_story_in_twenty_is_valid() -> None:
    rng = Random("splits")
    splits = Counter(storybook._split_of(generate(storybook._grammar(), rng).text) for _ in range(4000))
    assert abs(splits["valid"] - 200) < 5 * math.sqrt(200)


@pytest.mark.parametrize(("arguments", "message"), [((-1,), "count is -1"), ((1, 0, "test"), "split is 'test'")])
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stories(*arguments)


# The probabilities


class CountingDerivation(Derivation):
    """A derivation that records its choices and their numbers of options."""

    __slots__ = ("picks", "sizes")

    def __init__(self, random: Callable[[], float]) -> None:
        super().__init__(random)
        self.picks: list[int] = []
        self.sizes: list[int] = []

    def pick(self, count: int) -> int:
        self.sizes.append(count)
        self.picks.append(super().pick(count))
        return self.picks[-1]


def generate(node: Node, rng: Random) -> Story:
    derivation = Derivation(rng.random)
    node.expand(derivation)
    return Story("".join(derivation.parts), math.log2(derivation.inverse_probability))


def test_bits_are_the_information_of_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    derivations: list[CountingDerivation] = []

    def count_choices(random: Callable[[], float]) -> CountingDerivation:
        derivations.append(CountingDerivation(random))
        return derivations[-1]

    monkeypatch.setattr(storybook, "Derivation", count_choices)
    for story in stories(50):
        assert story.bits == pytest.approx(sum(math.log2(size) for size in derivations[-1].sizes), rel=1e-12)


def test_probabilities_sum_to_one() -> None:
    """All derivations of a small plot have different texts, and their probabilities sum to 1."""
    compiler = Compiler({"pet": plain("cat, dog, owl")}, {"end": "[The end.|Good night, {who}.]"})
    node = compiler.compile(Plot("friend: pet", "[{A pet}|Look, {a pet},] met {a friend}[ and [sang|slept]|]. <end friend>"))
    probabilities: dict[str, float] = {}
    todo: list[tuple[int, ...]] = [()]
    while todo:
        picks = todo.pop()
        derivation = ScriptedDerivation(picks)
        try:
            node.expand(derivation)
        except Undecided as choice:
            todo += [(*picks, pick) for pick in range(choice.args[0])]
        else:
            probability = 1 / derivation.inverse_probability
            assert probabilities.setdefault("".join(derivation.parts), probability) == probability
    assert len(probabilities) == 2 * (3 * 2) * 3 * 2
    assert sum(probabilities.values()) == pytest.approx(1)


class Undecided(Exception):
    """The script of a derivation ended before a choice between `args[0]` options."""


class ScriptedDerivation(Derivation):
    """A derivation with given choices."""

    __slots__ = ("script",)

    def __init__(self, script: tuple[int, ...]) -> None:
        super().__init__(lambda: 0.0)
        self.script = iter(script)

    def pick(self, count: int) -> int:
        for choice in self.script:
            self.inverse_probability *= count
            return choice
        raise Undecided(count)


def test_picks_are_uniform() -> None:
    derivation = Derivation(Random("uniform").random)
    counts = Counter(derivation.pick(7) for _ in range(70_000))
    assert sorted(counts) == list(range(7))
    assert all(abs(count - 10_000) < 5 * math.sqrt(10_000) for count in counts.values())


def test_every_plot_is_generated() -> None:
    plots: Counter[str] = Counter()
    rng = Random("plots")
    for _ in range(1000):
        derivation = CountingDerivation(rng.random)
        storybook._grammar().expand(derivation)
        plots[storybook.PLOTS[derivation.picks[0]]] += 1
    assert len(storybook.PLOTS) >= 30
    assert set(plots) == set(storybook.PLOTS)


def square_sum(node: "str | Node", drawn: dict[str, str]) -> tuple[float, dict[str, str]]:
    """Return an upper bound of the sum of p * p over all derivations of `node`, and the roles that may be drawn after it.

    `drawn` (role -> kind) are the roles that may have been drawn before. A draw that may have happened already counts as p = 1.
    """
    if isinstance(node, Sequence):
        total = 1.0
        for part in node.parts:
            factor, drawn = square_sum(part, drawn)
            total *= factor
        return total, drawn
    if isinstance(node, Choice):
        options = [square_sum(option, drawn) for option in node.options]
        after = {role: kind for _, roles in options for role, kind in roles.items()}
        return sum(total for total, _ in options) / len(options) ** 2, after
    if isinstance(node, str) or node.role in drawn:
        return 1.0, drawn
    left = len(node.words) - list(drawn.values()).count(node.kind)
    return 1 / left, drawn | {node.role: node.kind}


def test_no_two_stories_of_a_million_are_the_same(sample: list[Story]) -> None:
    """The expected number of equal pairs of stories is at most N**2 / 2 * sum(p * p)."""
    bound, _ = square_sum(storybook._grammar(), {})
    train_bound = bound / (1 - 1 / storybook.VALID_EVERY) ** 2  # p grows by 20/19 given the split
    assert 1e6**2 / 2 * train_bound < 1e-6
    assert sum(2**-story.bits for story in sample) / MANY <= bound  # E[p] = sum(p * p)
    assert -math.log2(bound) < sum(story.bits for story in sample) / MANY  # Renyi's entropy is less than Shannon's


# The engine


def compile_text(template: str, cast: str = "hero: child") -> Sequence:
    return Compiler(WORDS, {"sad": "{who} was sad.", "sad pet": "The {pet} was sad."}).compile(Plot(cast, template))


def test_roles_keep_their_word_and_have_different_words() -> None:
    node = compile_text("{hero} {hero} {friend} {hero.he} {He}", "hero: child, friend: child")
    for number in range(200):
        first, again, friend, he, capital = generate(node, Random(number)).text.split()
        assert first == again != friend
        assert (he, capital) in {("he", "He"), ("she", "She")}


def test_phrases_are_about_the_role_they_are_given() -> None:
    node = compile_text("{hero}, {friend}: <sad> <sad friend>", "hero: child, friend: child")
    assert re.fullmatch(r"(\w+), (\w+): \1 was sad. \2 was sad.", generate(node, Random(1)).text)
    assert generate(compile_text("<sad pet>"), Random(1)).text.startswith("The ")


def test_line_breaks_are_layout() -> None:
    assert engine.join_lines("\n  One [red\n  |blue ]\n  day.\n\n  Two\n  days.  \n") == "One [red|blue ] day.\nTwo days."


@pytest.mark.parametrize("template", ["[a|b", "a]", "a|b", "{nobody}", "{hero.wings}", "{}", "<nothing>", "{hero", "> b"])
def test_wrong_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=re.escape(template.strip("ab")[:1])):
        compile_text(template)


def test_each_word_is_in_one_list_only() -> None:
    words = [word.forms["word"] for kind in WORDS.values() for word in kind]
    people = {word.forms["word"] for kind in ("child", "petname", "grownup") for word in WORDS[kind]}
    assert all(words.count(name) == 1 for name in people)
    for kind, list_of_words in WORDS.items():
        assert len({word.forms["word"] for word in list_of_words}) == len(list_of_words), kind
        assert len({frozenset(word.forms) for word in list_of_words}) == 1, kind


def test_plots_are_in_one_file_only() -> None:
    files = (storybook.plots_animals, storybook.plots_friends, storybook.plots_home, storybook.plots_outdoors)
    assert sum(len(file.PLOTS) for file in files) == len(storybook.PLOTS)

"""The proof that the storybook grammar is unambiguous, so that `Story.bits` is exact (`storybook.EXACT`)."""

from collections import defaultdict

import pytest

from minigpt.data import storybook
from minigpt.data.storybook.engine import Choice, Compiler, Mention, Node, Plot, Sequence
from minigpt.data.storybook.words import WORDS, plain


class Letters:
    """The grammar as a graph of letters: `after[s]` are the letters that may follow letter `s`.

    A mention stands for any word of its list, so the graph contains all texts of the grammar, and more. Each derivation (up to
    draws of words that do not appear, see `hidden_draws`) is a different path, so the grammar is unambiguous if no two paths
    spell the same text.
    """

    def __init__(self, node: Node) -> None:
        self.letter: list[str] = []
        self.after: list[list[int]] = []
        self.start = self.add(node, self.add("\0", []))

    def add(self, node: "str | Node", after: list[int]) -> list[int]:
        """Add `node` before the letters `after`, and return the letters it may begin with."""
        if isinstance(node, str):
            for letter in reversed(node):
                self.letter.append(letter)
                self.after.append(after)
                after = [len(self.letter) - 1]
            return after
        if isinstance(node, Sequence):
            for part in reversed(node.parts):
                after = self.add(part, after)
            return after
        options = node.options if isinstance(node, Choice) else sorted({word.forms[node.form] for word in node.words})
        return [first for option in options for first in self.add(option, after)]


def ambiguities(node: Node) -> list[str]:
    """Return prefixes of texts that two different paths spell, found by a search over pairs of paths with equal letters."""
    graph = Letters(node)
    predecessor: dict[tuple[int, int], tuple[int, int] | None] = {}
    todo: list[tuple[int, int]] = []
    found: list[str] = []

    def walk(left: list[int], right: list[int], via: tuple[int, int] | None) -> None:
        by_letter = defaultdict(list)
        for state in right:
            by_letter[graph.letter[state]].append(state)
        for one in left:
            for other in by_letter.get(graph.letter[one], ()):
                pair = (one, other) if one < other else (other, one)
                if one != other and pair not in predecessor:
                    predecessor[pair] = via
                    todo.append(pair)

    for follow in {id(follow): follow for follow in [graph.start, *graph.after]}.values():
        if len(set(follow)) < len(follow):
            found.append("two equal options before " + "".join(graph.letter[state] for state in follow))
        if len(follow) > 1:
            walk(follow, follow, None)
    while todo:
        pair = todo.pop()
        left, right = graph.after[pair[0]], graph.after[pair[1]]
        if left is right or not set(left).isdisjoint(right):
            found.append(spelled(graph, predecessor, pair))
        else:
            walk(left, right, pair)
    return found


def spelled(graph: Letters, predecessor: dict, pair: tuple[int, int] | None) -> str:
    text = ""
    while pair:
        text, pair = graph.letter[pair[0]] + text, predecessor[pair]
    return text


def hidden_draws(node: "str | Node", shown: frozenset[str], hidden: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the roles whose word is visible after `node`, and the roles whose word may be drawn but not visible in the text."""
    if isinstance(node, Sequence):
        for part in node.parts:
            shown, hidden = hidden_draws(part, shown, hidden)
    elif isinstance(node, Choice):
        ends = [hidden_draws(option, shown, hidden) for option in node.options]
        shown = frozenset.intersection(*(end[0] for end in ends))
        hidden = frozenset.union(*(end[1] for end in ends))
    elif isinstance(node, Mention):
        if len({word.forms[node.form] for word in node.words}) == len(node.words):
            shown, hidden = shown | {node.role}, hidden - {node.role}
        elif node.role not in shown:
            hidden |= {node.role}
    return shown, hidden


def test_every_text_has_one_derivation() -> None:
    assert storybook.EXACT
    grammar = storybook._grammar()
    assert ambiguities(grammar) == []
    for name, node in zip(storybook.PLOTS, grammar.options, strict=True):
        assert not hidden_draws(node, frozenset(), frozenset())[1], name


@pytest.mark.parametrize("template", ["[a|b|a]", "[very |][very |]big", "[a|ab][c|bc]", "[{pet}|cat]", "x[|]", "[a{pet}|ac]at"])
def test_the_proof_finds_ambiguities(template: str) -> None:
    assert ambiguities(Compiler({"pet": plain("cat, dog, c")}, {}).compile(Plot("", template)))


def test_the_proof_finds_hidden_draws() -> None:
    node = Compiler(WORDS, {}).compile(Plot("hero: child", "[{hero}|{He}] ran."))
    assert hidden_draws(node, frozenset(), frozenset())[1] == {"hero"}

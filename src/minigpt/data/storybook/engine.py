"""The small engine that turns a plot, written as a template, into stories.

A template is plain text with three kinds of marks:

- `[a|b|c]` picks one of its parts, each equally likely. Parts may be empty and may hold marks themselves.
- `{toy}` names a role of the plot. At its first mention the engine draws a word for it; every later mention is the same
  word. `{toy.plural}` is another form of that word, `{a toy}` puts "a" or "an" before it, a capital (`{Toy}`, `{A toy}`)
  gives it a capital. `{he}`, `{him}`, `{his}` and `{himself}` are short for `{hero.he}` and so on.
- `<sad>` is a phrase of the phrase book, and `<sad friend>` is the same phrase about another role (its `{who}`).

An empty line begins a new paragraph. Every choice is uniform, so the probability of a story is one over the product of
the sizes of all choices that were made.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PRONOUNS = ("he", "him", "his", "himself")
TOKEN = re.compile(r"[\[\]|]|\{[^{}]*\}|<[^<>]*>|[^\[\]|{}<>]+|.", re.DOTALL)
MENTION = re.compile(r"\{(?:(a|A) )?(\w+)(?:\.(\w+))?\}")


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """A word and its forms: `forms["word"]` is the word itself, `forms["a"]` has its article, `forms["Word"]` a capital."""

    forms: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plot:
    """A story to be told: who plays in it ("hero: child, friend: animal") and its template.

    A role that `cast` does not list is played by the word list of its own name: `{toy}` by a toy.
    """

    cast: str
    template: str


class Tale:
    """One story being told: its text so far, the words drawn for its roles, and the number of ways it could have gone."""

    __slots__ = ("decks", "parts", "random", "roles", "ways")

    def __init__(self, random: Callable[[], float]):
        self.random = random  # returns a number in [0, 1)
        self.parts: list[str] = []
        self.roles: dict[str, Word] = {}
        self.decks: dict[str, list[Word]] = {}
        self.ways = 1

    def pick(self, count: int) -> int:
        """One of 0, 1, ..., count - 1, all equally likely."""
        self.ways *= count
        return int(self.random() * count)

    def draw(self, role: str, kind: str, words: tuple[Word, ...]) -> Word:
        """A word for `role`, drawn like a card, so that no two roles of one kind are played by the same word."""
        deck = self.decks.setdefault(kind, list(words))
        word = deck.pop(self.pick(len(deck)))
        self.roles[role] = word
        return word


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """Texts and marks, one after the other."""

    parts: tuple["str | Node", ...]

    def tell(self, tale: Tale) -> None:
        for part in self.parts:
            if isinstance(part, str):
                tale.parts.append(part)
            else:
                part.tell(tale)


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """`[a|b|c]`: one of several sequences."""

    options: tuple[Sequence, ...]

    def tell(self, tale: Tale) -> None:
        self.options[tale.pick(len(self.options))].tell(tale)


@dataclass(frozen=True, slots=True, eq=False)
class Mention:
    """`{toy.plural}`: one form of the word that plays a role."""

    role: str
    form: str
    kind: str
    words: tuple[Word, ...]

    def tell(self, tale: Tale) -> None:
        word = tale.roles.get(self.role) or tale.draw(self.role, self.kind, self.words)
        tale.parts.append(word.forms[self.form])


Node = Sequence | Choice | Mention


def flow(template: str) -> str:
    """The template on one line a paragraph. A line break beside `[`, `|` or `]` is layout; any other one is a space."""
    paragraphs = re.split(r"\n\s*\n", template.strip())
    tight = (re.sub(r"(?<=[\[|])\s*\n\s*|\s*\n\s*(?=[|\]])", "", paragraph.strip()) for paragraph in paragraphs)
    return "\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in tight)


class Compiler:
    """Turns templates into nodes. Errors (`ValueError`) quote the mark that is wrong."""

    def __init__(self, words: Mapping[str, tuple[Word, ...]], phrases: Mapping[str, str]):
        self.words = words
        self.phrases = {name: flow(text) for name, text in phrases.items()}

    def compile(self, plot: Plot) -> Sequence:
        """The plot as one node, ready to `tell`."""
        pairs = (part.split(":") for part in plot.cast.split(",") if part.strip())
        cast = {role.strip(): kind.strip() for role, kind in pairs}
        return self._parse(flow(plot.template), cast)

    def _parse(self, text: str, cast: Mapping[str, str]) -> Sequence:
        tokens = TOKEN.findall(text)[::-1]
        node = self._sequence(tokens, cast)
        if tokens:
            raise ValueError(f"{tokens[-1]!r} stands outside of any [...] in the template {text[:60]!r}")
        return node

    def _sequence(self, tokens: list[str], cast: Mapping[str, str]) -> Sequence:
        parts: list[str | Node] = []
        while tokens and tokens[-1] not in "|]":
            token = tokens.pop()
            parts.append(self._mark(token, tokens, cast) if token[0] in "[{<}>" else token)
        return Sequence(tuple(parts))

    def _mark(self, token: str, tokens: list[str], cast: Mapping[str, str]) -> Node:
        if token == "[":
            return self._choice(tokens, cast)
        return self._phrase(token, cast) if token[0] == "<" else self._mention(token, cast)

    def _choice(self, tokens: list[str], cast: Mapping[str, str]) -> Choice:
        options = [self._sequence(tokens, cast)]
        while tokens and tokens[-1] == "|":
            tokens.pop()
            options.append(self._sequence(tokens, cast))
        if not tokens:
            raise ValueError("a [ is never closed by ]")
        tokens.pop()
        return Choice(tuple(options))

    def _mention(self, token: str, cast: Mapping[str, str]) -> Mention:
        match = MENTION.fullmatch(token)
        if not match:
            raise ValueError(f"{token} is no mention of a role, such as {{hero}}, {{a toy}} or {{friend.his}}")
        article, name, form = match.groups()
        role = name.lower()
        if role in PRONOUNS:
            role, form = "hero", name
        elif not form:
            form = article or ("Word" if name[0].isupper() else "word")
        kind = cast.get(role, role.rstrip("0123456789"))
        if kind not in self.words or form not in self.words[kind][0].forms:
            raise ValueError(f"{token}: there is no word list {kind!r} with the form {form!r}")
        return Mention(role, form, kind, self.words[kind])

    def _phrase(self, token: str, cast: Mapping[str, str]) -> Sequence:
        name, who = token[1:-1], "hero"
        if name not in self.phrases:
            name, _, who = name.rpartition(" ")
        if name not in self.phrases:
            raise ValueError(f"{token}: there is no such phrase in the phrase book")
        return self._parse(re.sub(r"\bwho\b(?=[^{]*\}|>)", who, self.phrases[name]), cast)

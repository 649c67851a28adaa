"""The template engine that generates stories from plots.

A template is plain text with three kinds of marks:

- `[a|b|c]` is a choice between options of equal probability. Options may be empty and may contain marks.
- `{toy}` mentions a role of the plot. The first mention draws a word for the role, and later mentions repeat that word.
  `{toy.plural}` is another form of the word, `{a toy}` puts "a" or "an" before it, and a capital letter (`{Toy}`, `{A toy}`)
  capitalizes it. `{he}`, `{him}`, `{his}` and `{himself}` are short for `{hero.he}` and so on.
- `<sad>` is a phrase from `phrases.py`, and `<sad friend>` is the same phrase about another role (its `{who}`).

An empty line begins a new paragraph. Every choice is uniform, so the probability of a derivation is one over the product of
the numbers of options of all its choices.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PRONOUNS = ("he", "him", "his", "himself")
TOKEN = re.compile(r"[\[\]|]|\{[^{}]*\}|<[^<>]*>|[^\[\]|{}<>]+|.", re.DOTALL)
MENTION = re.compile(r"\{(?:(a|A) )?(\w+)(?:\.(\w+))?\}")


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """A word and its forms: the word itself as `forms["word"]`, with an article as "a", and capitalized as "Word" and "A"."""

    forms: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plot:
    """The template of a story, and the word lists of its roles, such as "hero: child, friend: animal".

    A role that is missing in `cast` uses the word list with the same name: the role `toy` uses the list of toys.
    """

    cast: str
    template: str


class Derivation:
    """The state of the generation of a story: its text so far, the words of its roles, and the inverse of its probability."""

    __slots__ = ("inverse_probability", "parts", "random", "remaining", "roles")

    def __init__(self, random: Callable[[], float]):
        self.random = random  # returns a number in [0, 1)
        self.parts: list[str] = []
        self.roles: dict[str, Word] = {}
        self.remaining: dict[str, list[Word]] = {}
        self.inverse_probability = 1

    def pick(self, count: int) -> int:
        """Return a random integer from 0 to count - 1. All are equally likely."""
        self.inverse_probability *= count
        return int(self.random() * count)

    def draw(self, role: str, kind: str, words: tuple[Word, ...]) -> Word:
        """Draw a word for `role` without replacement, so that no two roles with the same word list get the same word."""
        remaining = self.remaining.setdefault(kind, list(words))
        word = remaining.pop(self.pick(len(remaining)))
        self.roles[role] = word
        return word


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """Texts and marks in order."""

    parts: tuple["str | Node", ...]

    def expand(self, derivation: Derivation) -> None:
        for part in self.parts:
            if isinstance(part, str):
                derivation.parts.append(part)
            else:
                part.expand(derivation)


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """`[a|b|c]`: a choice between sequences."""

    options: tuple[Sequence, ...]

    def expand(self, derivation: Derivation) -> None:
        self.options[derivation.pick(len(self.options))].expand(derivation)


@dataclass(frozen=True, slots=True, eq=False)
class Mention:
    """`{toy.plural}`: a form of the word of a role."""

    role: str
    form: str
    kind: str
    words: tuple[Word, ...]

    def expand(self, derivation: Derivation) -> None:
        word = derivation.roles.get(self.role) or derivation.draw(self.role, self.kind, self.words)
        derivation.parts.append(word.forms[self.form])


Node = Sequence | Choice | Mention


def join_lines(template: str) -> str:
    """Return the template with one line per paragraph. Line breaks next to `[`, `|` or `]` are removed, others become spaces."""
    paragraphs = re.split(r"\n\s*\n", template.strip())
    tight = (re.sub(r"(?<=[\[|])\s*\n\s*|\s*\n\s*(?=[|\]])", "", paragraph.strip()) for paragraph in paragraphs)
    return "\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in tight)


class Compiler:
    """A compiler from templates to nodes. It raises ValueError, which quotes the invalid mark, for an invalid template."""

    def __init__(self, words: Mapping[str, tuple[Word, ...]], phrases: Mapping[str, str]):
        self.words = words
        self.phrases = {name: join_lines(text) for name, text in phrases.items()}

    def compile(self, plot: Plot) -> Sequence:
        """Compile a plot to a node."""
        pairs = (part.split(":") for part in plot.cast.split(",") if part.strip())
        cast = {role.strip(): kind.strip() for role, kind in pairs}
        return self._parse(join_lines(plot.template), cast)

    def _parse(self, text: str, cast: Mapping[str, str]) -> Sequence:
        tokens = TOKEN.findall(text)[::-1]
        node = self._sequence(tokens, cast)
        if tokens:
            raise ValueError(f"{tokens[-1]!r} is outside of any [...] in the template {text[:60]!r}")
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
            raise ValueError(f"{token} is not a mention of a role, such as {{hero}}, {{a toy}} or {{friend.his}}")
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
            raise ValueError(f"{token}: there is no such phrase in phrases.py")
        return self._parse(re.sub(r"\bwho\b(?=[^{]*\}|>)", who, self.phrases[name]), cast)

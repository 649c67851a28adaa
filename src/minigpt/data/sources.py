"""What `--data` and `--val-data` mean: the built-in stories, the download, or files of one's own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minigpt.data.corpus import END_OF_TEXT, check_can_hold_out, documents, hold_out, reading, text_files

BUILT_IN = ("storybook", "tinystories")
N_VALID_STORIES = 250  # about 60,000 tokens: each validation sees all of them, as the floor does


@dataclass(frozen=True)
class Texts:
    """Text files ready to be read, and what is known about them."""

    train: Sequence[Path]
    valid: Sequence[Path] | None  # None: hold out documents of train
    valid_bits: float | None = None  # the information in the validation text, where its source knows it
    bits_are_exact: bool = False

    def documents(self, split: str) -> Iterator[str]:
        """The documents of the "train" or the "valid" split."""
        if self.valid is None:
            return hold_out(documents(self.train), split)
        return documents(self.train if split == "train" else self.valid)


class Source(Protocol):
    """Where text comes from."""

    @property
    def name(self) -> str:
        """What the data is, for people."""

    def identity(self) -> Any:
        """Everything that decides what the text is, as JSON: what was prepared can be used as long as it is equal."""

    def texts(self, folder: Path) -> Texts:
        """The text itself, written to `folder` if it does not exist yet. Raises ValueError if it cannot be had."""


@dataclass(frozen=True)
class Files:
    """Files and folders of text; without validation files, every 20th document is held out."""

    name: str
    train: Sequence[Path]
    valid: Sequence[Path] | None

    def identity(self) -> Any:
        """Paths, sizes and times of change: a file that was edited is another one."""
        return {"train": file_identities(self.train), "valid": file_identities(self.valid or [])}

    def texts(self, folder: Path) -> Texts:
        """The files themselves; refuses a single document of which nothing can be held out."""
        if self.valid is None:
            check_can_hold_out(self.train)
        return Texts(self.train, self.valid)


@dataclass(frozen=True)
class Storybook:
    """The built-in stories, told by `minigpt.data.storybook`."""

    stories: int
    seed: int
    valid: Sequence[Path] | None = None

    @property
    def name(self) -> str:
        """What the data is, for people."""
        return f"storybook ({self.stories:,} stories, seed {self.seed})"

    def identity(self) -> Any:
        """The grammar's version, the seed and the number of stories decide every word."""
        from minigpt.data import storybook

        return {
            "storybook": [storybook.VERSION, self.seed, self.stories, N_VALID_STORIES],
            "valid": file_identities(self.valid or []),
        }

    def texts(self, folder: Path) -> Texts:
        """Tell the stories once, into text files that people can read too."""
        from minigpt.data import storybook

        train, valid = folder / "train.txt", folder / "valid.txt"
        _write_stories(train, storybook.stories(self.stories, self.seed, "train"))
        if self.valid is not None:
            return Texts([train], self.valid)
        bits = _write_stories(valid, storybook.stories(N_VALID_STORIES, self.seed, "valid"))
        return Texts([train], [valid], bits, storybook.EXACT)


def source(
    data: Sequence[str], val_data: str | None, *, stories: int, seed: int, say: Callable[[str], None]
) -> Storybook | Files:
    """What the command line's `--data` and `--val-data` ask for.

    Raises ValueError for missing files, and for a built-in corpus named beside others.
    """
    if not data:
        raise ValueError(f"no data given: expected {' or '.join(BUILT_IN)}, or files and folders of text")
    beside = [name for name in data if name in BUILT_IN]
    if beside and len(data) > 1:
        raise ValueError(f"{beside[0]} cannot be mixed with other data; a file of that name is ./{beside[0]}")
    valid = None if val_data is None else text_files([val_data])
    if data[0] == "storybook":
        return Storybook(stories, seed, valid)
    if data[0] == "tinystories":
        return _tinystories(valid, say)
    train = text_files(data)
    return Files(_name(data), train, valid)


def _tinystories(valid: Sequence[Path] | None, say: Callable[[str], None]) -> Files:
    from minigpt.data import tinystories

    say("fetching TinyStories (2.2 GB the first time)")
    train, its_valid = tinystories.download()
    return Files("tinystories", [train], valid or [its_valid])


def _write_stories(path: Path, stories: Iterable[Any]) -> float:
    """Write the stories as text; returns their bits, added up."""
    bits = 0.0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for story in stories:
            stream.write(f"{story.text}\n{END_OF_TEXT}\n")
            bits += story.bits
    return bits


def file_identities(files: Sequence[Path]) -> list[list[str | int]]:
    """Absolute path, size in bytes and time of change in nanoseconds of each file."""
    return [_identity(file) for file in files]


def _identity(file: Path) -> list[str | int]:
    with reading(file):
        found = file.stat()
        return [str(file.resolve()), found.st_size, found.st_mtime_ns]


def _name(data: Sequence[str]) -> str:
    """File and folder names without their folders: a report is for others to read."""
    names = [Path(path).resolve().name for path in data]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""Compute a state of a run again, or what a run would have become without one of its stories."""

import math
import operator
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from minigpt import __version__
from minigpt.api.run import open_run
from minigpt.data.leave_out import Document
from minigpt.data.tokenizer import Tokenizer
from minigpt.np.model import GPT
from minigpt.runs.checkpoint import MODEL, folder_name, is_intact, save
from minigpt.runs.folder import RunFolder, split_step
from minigpt.runs.snapshots import save_snapshot
from minigpt.training.replay import Replay

Say = Callable[[str], None]
OnStep = Callable[[int, int], object]
"Called with the number of repeated steps and their total number."
NGRAM = 3


def silent(line: str) -> None:
    """Print nothing."""


def replay(
    where: str | Path,
    steps: SupportsIndex | Sequence[SupportsIndex],
    *,
    without_story: int | None = None,
    out: str | Path | None = None,
    say: Say = silent,
    on_step: OnStep = lambda done, total: None,
) -> list[Path]:
    """Repeat the steps of a run, and return where the weights after each of the given steps are.

    The weights become snapshots of the run, which `load(run, step=step)` reads. With `out`, or without a story, they are written
    with the state of the optimizer to new runs instead, by default RUN@STEP-without-STORY.

    Parameters
    ----------
    where
        The folder of a run, or its name in runs/. Its training data must still be there.
    steps
        A step, from 0 to the last one that the run has completed, or several.
    without_story
        The number of a document of the training text, from 0, that is left out of all batches.
    out
        The folder of the new run. It must not exist. Only for a single step.
    say, on_step
        Called with lines of text while the data is prepared, and after each step.

    Raises
    ------
    ValueError
        If there is no such run, step or story, if the steps cannot be repeated with the same bits on this machine, if the data
        has changed, or if `out` exists.
    """
    wanted = sorted(set(map(operator.index, [steps] if isinstance(steps, SupportsIndex) else steps)))
    if not wanted or (out is not None and len(wanted) > 1):
        raise ValueError(f"there are {len(wanted)} steps, but there must be {'exactly' if out else 'at least'} one")
    with Replay(_run(where), say) as past:
        for step in wanted:
            _check_range("step", step, past.steps_done, "the last step that the run has completed")
        folders = [_new_folder(past.run, step, without_story, out) for step in wanted]
        story, last = None, wanted[-1]
        first = last + 1  # the first step at which the story is left out
        if without_story is not None:
            stories = past.documents()
            _check_range("without_story", without_story, len(stories) - 1, "the last story of the training text")
            story = stories[without_story]
            first = min(past.steps_of_documents(stories, last).get(without_story, [first]))
        start = past.start_before(min(wanted[0], first - 1))
        if start < last:
            say(f"Repeating {f'the steps {start + 1:,} to' if start + 1 < last else 'step'} {last:,} ...")

        def report(done: int) -> None:
            on_step(done - start, last - start)

        paths = []
        for step, folder in zip(wanted, folders, strict=True):
            past.advance(min(step, first - 1), report)
            past.advance(step, report, left_out=story)
            paths.append(_write(past, step, folder, without_story))
        return paths


def _write(past: Replay, step: int, folder: RunFolder | None, without_story: int | None) -> Path:
    """Write the present weights as a snapshot of the run, or with the state of the optimizer to the folder of a new run.

    What is there already, from an earlier call that was interrupted later, is not written again.
    """
    if folder is None:
        snapshot = past.run.snapshots / folder_name(step)
        return (
            snapshot
            if (snapshot / MODEL).is_file() and is_intact(snapshot, [MODEL])
            else save_snapshot(past.run, past.model, step)
        )
    if folder.path.exists():
        return folder.path
    building = RunFolder(folder.path.with_name(f".{folder.path.name}"))
    shutil.rmtree(building.path, ignore_errors=True)
    building.create()
    past.data.tokenizer.save(building.tokenizer)
    content = {**_origin(past.run, step, without_story), "parameters": past.model.parameters.flat.size}
    building.write_json("run.json", content)
    save(building, past.model, past.workers.full_moments(), past.trainer.state)
    os.replace(building.path, folder.path)
    return folder.path


@dataclass(frozen=True)
class Influence:
    """What a model owes to one story: the result of a training without it."""

    story: int
    "The number of the story in the training text, from 0."
    steps: list[int]
    "The steps at which the model saw some of its tokens."
    bits: float
    "How many more bits the text costs without the story. Negative: the text costs less."
    text: str
    "The story."


def influence(
    where: str | Path,
    text: str,
    *,
    stories: int = 20,
    random: bool = False,
    say: Say = silent,
    on_step: OnStep = lambda done, total: None,
) -> tuple[float, list[Influence]]:
    """Train a run again without each of some stories, and return the bits of a text in the run, and what each story changes.

    The results are sorted: first those without which the text costs most. This leave-one-out comparison is exact, and takes up to
    one training for each story.

    Parameters
    ----------
    where
        The folder of a run, or its name in runs/. Its training data must still be there.
    text
        The text. Its cost is the sum of the surprisals of its tokens, in bits.
    stories
        The number of stories. They are those that the model has seen and that share the most sequences of three tokens with the
        text; rare sequences count more.
    random
        Choose the stories at random instead, from those that the model has seen.
    say, on_step
        Called with lines of text while the data is prepared, and after each step.

    Raises
    ------
    ValueError
        As in `replay`, and if the text is empty or longer than the context of the model.
    """
    if stories < 1:
        raise ValueError(f"stories is {stories}, but must be at least 1")
    with Replay(_run(where), say) as past:
        last, tokenizer = past.steps_done, past.data.tokenizer
        ids = _text_ids(tokenizer, text, past.settings.context_length)
        all_stories = past.documents()
        seen = past.steps_of_documents(all_stories, last)
        tokens = np.asarray(past.data.train.tokens)
        if random:
            chosen = [int(number) for number in np.random.default_rng(0).permutation(sorted(seen))[:stories]]
        else:
            chosen = _most_similar(ids, all_stories, sorted(seen), tokens, stories)
        if not chosen:
            raise ValueError("no story that the model has seen shares three tokens in a row with the text: use --random")
        if len(chosen) < stories:
            say(f"There are only {len(chosen)} such stories.")
        work = {number: (all_stories[number], seen[number][0]) for number in chosen}
        repeated = last + sum(last - first + 1 for _, first in work.values())
        say(f"Training without each of {len(chosen)} stories, {repeated:,} steps in all ...")
        bits, without = _costs(past, ids, work, on_step)
        results = [
            Influence(number, seen[number], cost - bits, _text_of(tokenizer, tokens, all_stories[number]))
            for number, cost in without.items()
        ]
        return bits, sorted(results, key=lambda result: -result.bits)


def _costs(
    past: Replay, ids: Sequence[int], stories: Mapping[int, tuple[Document, int]], on_step: OnStep
) -> tuple[float, dict[int, float]]:
    """Return the cost of a text in bits after the whole training, and after the training without each of the stories.

    The steps before a story is seen for the first time are the same with and without it. `stories` has, for each number, the
    story and this step.
    """
    last = past.steps_done
    total, done = last + sum(last - first + 1 for _, first in stories.values()), 0

    def report(step: int) -> None:
        nonlocal done
        done += 1
        on_step(done, total)

    past.start_before(0)
    without: dict[int, float] = {}
    for number, (story, first) in sorted(stories.items(), key=lambda item: item[1][1]):
        past.advance(first - 1, report)
        state = past.save()
        past.advance(last, report, left_out=story)
        without[number] = _bits(past.model, ids)
        past.restore(state)
    past.advance(last, report)
    return _bits(past.model, ids), without


def _run(where: str | Path) -> RunFolder:
    run, step = split_step(where)
    if step is not None:
        raise ValueError(f"{where} is the state of a run at one step: give the run without @{step}")
    return RunFolder(open_run(run).path)


def _check_range(name: str, value: int, largest: int, what: str) -> None:
    if not 0 <= value <= largest:
        raise ValueError(f"{name} is {value:,}, but must be from 0 to {largest:,}, {what}")


def _new_folder(run: RunFolder, step: int, without_story: int | None, out: str | Path | None) -> RunFolder | None:
    """Return the folder to create, or None if the weights become a snapshot. Raises `ValueError` if it exists."""
    if out is None:
        if without_story is None:
            return None
        out = run.path.with_name(f"{run.path.name}@{step}-without-{without_story}")
    folder = RunFolder(Path(out))
    if os.path.lexists(out) and _content(folder) != _origin(run, step, without_story):
        raise ValueError(f"{out} already exists: delete it, or choose another folder with --out")
    return folder


def _origin(run: RunFolder, step: int, without_story: int | None) -> dict[str, object]:
    """Return what the run.json of a state says about where it comes from."""
    return {"replayed_from": str(run.path), "step": step, "without_story": without_story, "version": __version__}


def _content(folder: RunFolder) -> dict[str, object]:
    """Return what the run.json of an existing folder says about where its state comes from."""
    try:
        content = folder.read_json("run.json")
    except (OSError, ValueError):
        return {}
    return {name: content.get(name) for name in ("replayed_from", "step", "without_story", "version")}


def _text_ids(tokenizer: Tokenizer, text: str, context_length: int) -> list[int]:
    """Return the tokens of a text, after begin-of-text."""
    ids = tokenizer.input_ids(text)
    if len(ids) < 2:
        raise ValueError("the text is empty")
    if len(ids) > context_length + 1:
        raise ValueError(f"the text has {len(ids) - 1:,} tokens, but the model's context_length is {context_length:,}")
    return ids


def _bits(model: GPT, ids: Sequence[int]) -> float:
    """Return the cost of a text in bits."""
    return model.loss([ids[:-1]], [ids[1:]]) * (len(ids) - 1) / math.log(2)


def _most_similar(ids: Sequence[int], stories: Sequence[Document], seen: Sequence[int], tokens: np.ndarray, n: int) -> list[int]:
    """Return the stories that share the most n-grams with the text. An n-gram counts the more, the fewer stories have it."""
    of_text = _ngrams(ids[1:])
    shared = {i: of_text & _ngrams(tokens[stories[i].start : stories[i].stop].tolist()) for i in seen}
    frequency = Counter(ngram for ngrams in shared.values() for ngram in ngrams)
    scores = {i: sum(math.log(len(seen) / frequency[ngram]) for ngram in sorted(ngrams)) for i, ngrams in shared.items()}
    return sorted((i for i in scores if shared[i]), key=lambda i: (-scores[i], i))[:n]


def _ngrams(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[i : i + NGRAM]) for i in range(len(ids) - NGRAM + 1)}


def _text_of(tokenizer: Tokenizer, tokens: np.ndarray, story: Document) -> str:
    ids = [int(token) for token in tokens[story.start : story.stop]]
    return tokenizer.decode([i for i in ids if i not in (tokenizer.end_of_text, tokenizer.begin_of_text)])

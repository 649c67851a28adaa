"""Commands that repeat the steps of a run: as they were, or without one of its stories."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from minigpt.cli.app import Integer, NonEmptyPath, Switch, app
from minigpt.cli.columns import cell
from minigpt.data.printable import printable

if TYPE_CHECKING:
    from minigpt.api.replay import Influence

TrainedRun = Annotated[str, Parameter(help="Run (or its name in runs/). Its training data must still be there.")]


@app.command
def replay(
    run: TrainedRun,
    *,
    step: Annotated[tuple[Integer, ...], Parameter(consume_multiple=True, negative_iterable="")],
    without_story: Integer | None = None,
    out: NonEmptyPath | None = None,
) -> None:
    """Repeat the steps of a run up to a step, bit for bit, or as they would have been without one of its stories.

    Parameters
    ----------
    step
        The step whose weights to compute, from 0, or several.
    without_story
        Number of a story (a document of the training text), from 0, that is left out of all batches.
    out
        New folder for the weights of one step and the state of the optimizer. [default: the weights become the snapshot RUN@STEP;
        with --without-story, the folder RUN@STEP-without-STORY]
    """
    from minigpt.api.replay import replay

    with _bar("repeating") as on_step:
        paths = replay(run, step, without_story=without_story, out=out, say=_say, on_step=on_step)
    is_new = out is not None or without_story is not None
    for number, path in zip(sorted(set(step)), paths, strict=True):
        print(printable(f"minigpt sample {shlex.quote(str(path) if is_new else f'{run}@{number}')}"))


@app.command
def influence(
    run: TrainedRun,
    *,
    text: str,
    stories: Integer = 20,
    random: Switch = False,
    json_: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Train a run again without each of some stories, and show how much each story lowers the cost of a text.

    This is leave-one-out: the difference is exact, but it takes up to one training for each story. Removing any story changes
    the model a little; --random shows how much stories matter that have nothing to do with the text.

    Parameters
    ----------
    text
        Text whose cost is compared: the surprise of its tokens, added up, in bits.
    stories
        Number of stories: those that the model has seen and that have most in common with the text.
    random
        Choose the stories at random instead.
    json_
        Print the result as JSON.
    """
    from minigpt.api.replay import influence

    with _bar("training without each story") as on_step:
        bits, results = influence(run, text, stories=stories, random=random, say=_say, on_step=on_step)
    if json_:
        print(json.dumps({"text": text, "bits": bits, "stories": [asdict(result) for result in results]}, ensure_ascii=False))
        return
    print(printable(f"The text costs {bits:.2f} bits. Bits that it costs in addition if a story is left out:\n"))
    print(printable("\n".join(_lines(results))))


def _lines(results: "list[Influence]") -> list[str]:
    """Return the table of the results. The beginnings of the stories are shortened to the width of the terminal."""
    steps = [", ".join(map(str, r.steps[:3])) + (f", ... ({len(r.steps)})" if len(r.steps) > 3 else "") for r in results]
    width = max(map(len, [*steps, "seen at steps"]))
    room = max(20, shutil.get_terminal_size().columns - width - 19) if sys.stdout.isatty() else 60
    lines = [f"{'bits':>7}  {'story':>6}  {'seen at steps':<{width}}  beginning"]
    for r, seen in zip(results, steps, strict=True):
        lines.append(
            f"{round(r.bits, 2) + 0:+7.2f}  {r.story:>6}  {seen:<{width}}  {cell(r.text.replace(chr(10), ' '), room).rstrip()}"
        )
    return lines


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; yield a function of the number of steps that are done, and of all of them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

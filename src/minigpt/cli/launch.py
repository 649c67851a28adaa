"""The command that starts another one as several ranks."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from minigpt.cli.app import app, at_least, whole


def fenced(words: Sequence[str]) -> list[str]:
    """The words of a command line, with a fence behind those that `launch` itself takes.

    >>> fenced(["launch", "-n", "4", "train", "--out", "run"])
    ['launch', '-n', '4', '--', 'train', '--out', 'run']
    """
    words = list(words)
    if words[:1] == ["launch"] and "--" not in words:
        begins = next((i for i, word in enumerate(words[1:], 1) if word in app and not word.startswith("-")), len(words))
        words.insert(begins, "--") if begins < len(words) else None
    return words


@app.command
def launch(
    *command: Annotated[str, Parameter(help="What to run, such as: train --out RUN.")],
    n: Annotated[int, Parameter(name=["-n", "--ranks"], converter=whole)] = 2,
    restarts: Annotated[int, Parameter(converter=whole)] = 0,
) -> int:
    """Run a command as several ranks on this machine, by MPI: minigpt launch -n 4 train --out RUN ...

    On several machines: mpiexec or srun, with the same command (docs/scaling.md).

    Parameters
    ----------
    n
        Number of ranks.
    restarts
        How many times a training (with --out) that ends badly is started again, from its last checkpoint.
    """
    from minigpt.train.launch import launch

    at_least(1, ranks=n)
    at_least(0, restarts=restarts)
    if not command:
        raise ValueError("there is nothing to launch: expected a command, such as minigpt launch -n 4 train --out RUN")
    return launch(command, n, restarts)

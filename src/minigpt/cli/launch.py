"""The command `launch`, which runs another command as several MPI ranks."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from minigpt.cli.app import app, check_minimum, integer
from minigpt.training.output import optional_output


def insert_separator(words: Sequence[str]) -> list[str]:
    """Insert "--" between the options of `launch` and the command that it launches.

    >>> insert_separator(["launch", "-n", "4", "train", "--out", "run"])
    ['launch', '-n', '4', '--', 'train', '--out', 'run']
    """
    words = list(words)
    if words[:1] == ["launch"] and "--" not in words:
        start = next((i for i, word in enumerate(words[1:], 1) if word in app and not word.startswith("-")), None)
        if start is not None:
            words.insert(start, "--")
    return words


@app.command
@optional_output()
def launch(
    *command: Annotated[str, Parameter(help="Command to run, such as: train --out RUN.")],
    n: Annotated[int, Parameter(name=["-n", "--ranks"], converter=integer)] = 2,
    restarts: Annotated[int, Parameter(converter=integer)] = 0,
) -> int:
    """Run a command as several MPI ranks on this machine: minigpt launch -n 4 train --out RUN ...

    To use several machines, run the command with mpiexec or srun (docs/scaling.md).

    Parameters
    ----------
    n
        Number of ranks.
    restarts
        Maximum number of times that a training run (with --out) is restarted from its last checkpoint after a failure.
    """
    from minigpt.training.parallel.launch import launch

    check_minimum(1, ranks=n)
    check_minimum(0, restarts=restarts)
    if not command:
        raise ValueError("launch needs a command to run, such as: minigpt launch -n 4 train --out RUN")
    return launch(command, n, restarts)

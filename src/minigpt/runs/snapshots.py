"""Snapshots: the weights of a run at some of its steps, by default at the powers of two, to see how a model has learned.

A snapshot is a folder with the weights alone, snapshots/step-000064/model.safetensors. Snapshots are never deleted while the run
goes on, and cannot be resumed.
"""

import shlex
import shutil
from pathlib import Path

from minigpt.np.model import GPT
from minigpt.runs.checkpoint import MODEL, checkpoints, folder_name, folders_of_steps, save_model, step_of, verify, write_folder
from minigpt.runs.folder import RunFolder

AUTO_BYTES = 64 << 20
"The largest snapshot of `auto`: the weights of 16 million parameters."


def is_due(step: int, last: int, when: str, parameters: int) -> bool:
    """Return whether there is a snapshot of a step.

    `when` is "powers" (step 0, the powers of two and the last step), "auto" (the same, unless the snapshots would be large), or
    "none".

    >>> [step for step in range(13) if is_due(step, 12, "powers", 1000)]
    [0, 1, 2, 4, 8, 12]
    >>> is_due(0, 12, "auto", 10**9), is_due(0, 12, "none", 1000)
    (False, False)
    """
    if when == "none" or (when == "auto" and 4 * parameters > AUTO_BYTES):
        return False
    return step == last or step & (step - 1) == 0


def save_snapshot(run: RunFolder, model: GPT, step: int) -> Path:
    """Write the snapshot of a step. Raises `OSError` if it cannot be written."""
    return write_folder(run.snapshots / folder_name(step), lambda folder: save_model(model, folder / MODEL))


def snapshots(run: RunFolder) -> list[Path]:
    """Return the snapshots of a run, in the order of the steps."""
    return folders_of_steps(run.snapshots)


def remove_snapshots_after(run: RunFolder, step: int) -> None:
    """Delete the snapshots of later steps: a resumed run will write them again."""
    for path in snapshots(run):
        if step_of(path) > step and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def folder_of_step(run: RunFolder, step: int) -> Path:
    """Return the snapshot or the checkpoint of a step, whose weights are intact.

    Raises `ValueError` if there is none. The message lists those that there are.
    """
    there = {step_of(path): path for path in [*checkpoints(run), *snapshots(run)]}
    if step not in there:
        steps = ", ".join(map(str, sorted(there))) or "none"
        raise ValueError(
            f"{run.path} has no weights of step {step}; it has weights of these steps: {steps} "
            f"(`minigpt replay {shlex.quote(str(run.path))} --step {step}` computes others)"
        )
    verify(there[step], [MODEL])
    return there[step]

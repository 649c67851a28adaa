"""Evaluate a trained model on a text."""

import math
from collections.abc import Sequence
from pathlib import Path

from minigpt.data.corpus import FIELD
from minigpt.data.standard_input import replace_standard_input
from minigpt.data.text_files import Say, text_files
from minigpt.data.token_files import encode_files
from minigpt.interop.load import load_finite
from minigpt.runs.folder import RunFolder, find_run, split_step
from minigpt.training.evaluate import Evaluation
from minigpt.training.evaluate import evaluate as evaluate_split
from minigpt.training.machine import available_cores
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.prepare import validation_split


def evaluate(
    where: str | Path,
    data: Sequence[str] | None = None,
    *,
    field: str = FIELD,
    threads: int = 0,
    say: Say = lambda line: None,
) -> Evaluation:
    """Evaluate a model on files and folders of text or, without them, on all of the validation text of its run.

    `where` is a run, a checkpoint, a Hugging Face directory, or a name on the Hugging Face hub. `field` is the field of .jsonl
    records that contains the text, and `say` is called with a line for each folder in which files are skipped.

    Raises
    ------
    ValueError
        If there is no model, tokenizer or text, or if the validation text of the run has changed.
    FloatingPointError
        If the loss is not finite.
    """
    if threads < 0:
        raise ValueError(f"threads is {threads}, but must be at least 0")
    if data is not None and not data:
        raise ValueError("data is empty, but must be files or folders of text")
    model, tokenizer = load_finite(where)
    if tokenizer is None:
        raise ValueError(f"{where} has no tokenizer (tokenizer.json)")
    if data is not None:
        split = encode_files(text_files(replace_standard_input(data), say), tokenizer, field=field)
    else:
        split = validation_split(own_run(where))
    with DataParallel(model, threads or available_cores()) as data_parallel:
        result = evaluate_split(data_parallel, split)
    if not math.isfinite(result.loss):
        raise FloatingPointError(f"{where}: the loss is not finite, because the activations of the model are not")
    return result


def own_run(where: str | Path) -> RunFolder:
    """Return the run `where` or, if this is one of the checkpoints or snapshots of a run, that run."""
    path = find_run(split_step(where)[0])
    for folder in (path, path.absolute()):
        if folder.parent.name in ("checkpoints", "snapshots"):
            return RunFolder(folder.parent.parent)
    return RunFolder(path)

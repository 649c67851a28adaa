"""A training run: its model, its tokenizer, its records, and what can be done with them."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from minigpt.api.evaluate import evaluate
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import stream_text
from minigpt.interop.load import load
from minigpt.np.generation import Overflow
from minigpt.np.model import GPT
from minigpt.np.sampling import SamplingOptions
from minigpt.runs.folder import RunFolder, find_run
from minigpt.training.evaluate import Evaluation
from minigpt.training.settings import Settings, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run:
    """A training run on disk. `minigpt.train` returns one, and `minigpt.open_run` opens one.

    >>> import os, tempfile, minigpt
    >>> _ = os.chdir(tempfile.mkdtemp())
    >>> model = {"tokenizer": "bytes", "context_length": 8, "d_model": 8, "n_layers": 1, "n_heads": 2}
    >>> run = minigpt.train(steps=3, stories=30, eval_every=3, sample_every=0, threads=1, quiet=True, **model)
    >>> run
    Run('runs/storybook-quick', step 3 of 3, validation loss 5.51)
    >>> run.metrics["loss"].shape
    (3,)
    >>> len(run.sample("Once", max_new_tokens=5, seed=1)) > 4
    True
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        "The folder of the run."
        self._folder = RunFolder(path)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the run, as in config.toml."""
        return Settings(**read_settings(self._folder.config))

    @cached_property
    def _loaded(self) -> tuple[GPT, Tokenizer | None]:
        return load(self.path)

    @property
    def model(self) -> GPT:
        """The model of the newest checkpoint. Raises `ValueError` if there is no checkpoint yet."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `ValueError` if the run was imported without one."""
        if (tokenizer := self._loaded[1]) is None:
            raise ValueError(f"{self.path} has no tokenizer (tokenizer.json)")
        return tokenizer

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.jsonl as arrays with one element for each step that was run.

        The columns are step, tokens, loss, lr, grad_norm, tokens_per_s and elapsed_s and, with NaN at steps where they were not
        measured, val_loss, val_bits_per_byte, and norms.LAYER.gradient, norms.LAYER.weight and norms.LAYER.update.
        `pandas.DataFrame(run.metrics)` is a table of them.
        """
        return columns(self._folder.records("metrics.jsonl"))

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The samples that were generated during the training, as in samples.jsonl."""
        return self._folder.records("samples.jsonl")

    def sample(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 200,
        seed: int = 0,
        stop: tuple[str, ...] = (),
        overflow: Overflow = "slide",
        **sampling: Unpack[SamplingOptions],
    ) -> str:
        """Return the prompt with a generated continuation: the text that `minigpt sample` prints.

        Parameters
        ----------
        prompt
            Beginning of the text.
        max_new_tokens
            Maximum number of tokens to generate; the end-of-text token ends the text earlier.
        seed
            Seed of the random numbers.
        stop
            Strings that end the text. They are not part of it.
        overflow
            If the text exceeds context_length, use only the last tokens ("slide"), or raise `ValueError` ("refuse").
        sampling
            temperature (0.8 by default), top_k (40), top_p, min_p and repetition_penalty; see `minigpt.np.sampling.Sampling`.
        """
        arguments = (self.model, self.tokenizer, prompt, max_new_tokens)
        return prompt + "".join(stream_text(*arguments, seed=seed, stop=stop, overflow=overflow, **sampling))

    def evaluate(self, data: str | Path | None = None, *, field: str = "text", threads: int = 0) -> Evaluation:
        """Return the loss, the perplexity, the bits per byte and the accuracy on a text.

        Parameters
        ----------
        data
            A file or a folder of text. By default, the validation text of the run.
        field
            The field of `.jsonl` records that contains the text.
        threads
            Number of threads; 0 means all cores that this process may use.
        """
        return evaluate(self.path, None if data is None else [str(data)], field=field, threads=threads)

    def plot(self) -> "Figure":
        """Return a matplotlib figure of the loss, the learning rate and the gradient norm over the steps."""
        from minigpt.report.curves import figure
        from minigpt.report.files import load_run

        return figure(load_run(self.path))

    def __repr__(self) -> str:
        records = self._folder.records("metrics.jsonl")
        if not records:
            return f"Run({str(self.path)!r}, no steps)"
        validations = [record["val_loss"] for record in records if record.get("val_loss") is not None]
        loss = f", validation loss {validations[-1]:.2f}" if validations else ""
        return f"Run({str(self.path)!r}, step {records[-1]['step']:,} of {self.settings.steps:,}{loss})"


def open_run(where: str | Path) -> Run:
    """Open a run on disk, by its path or by its name in runs/.

    Raises `ValueError` if there is no run.
    """
    path = find_run(where)
    if not (path / "run.json").is_file():
        raise ValueError(f"{path} is not the folder of a run: it has no run.json")
    return Run(path)


def columns(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return records as arrays, one for each name. Values that a record does not have are NaN.

    >>> columns([{"step": 1, "loss": 2.0}, {"step": 2, "loss": None, "norms": {"head": {"weight": 3.0}}}])
    {'step': array([1, 2]), 'loss': array([ 2., nan]), 'norms.head.weight': array([nan,  3.])}
    """
    flat = [dict(flatten(record)) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    rows = {name: [record.get(name) for record in flat] for name in names}
    return {name: np.array([np.nan if value is None else value for value in row]) for name, row in rows.items()}


def flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the items of a record, with the names of nested values joined by dots."""
    items: list[tuple[str, Any]] = []
    for name, value in record.items():
        items += flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return items

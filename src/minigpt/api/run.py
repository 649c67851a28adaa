"""A training run on disk: its model, its tokenizer and its records, with methods to use them."""

import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from minigpt.api.arguments import check_sampling, errors_in_python_terms, text_names
from minigpt.api.evaluate import evaluate
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import stream_text
from minigpt.interop.load import load
from minigpt.np.generation import Overflow
from minigpt.np.model import GPT
from minigpt.np.sampling import SamplingOptions
from minigpt.runs.checkpoint import checkpoints, step_of
from minigpt.runs.columns import columns
from minigpt.runs.folder import RUNS, RunFolder, find_run, nearest_run
from minigpt.runs.snapshots import snapshots
from minigpt.training.evaluate import Evaluation
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run:
    """A training run on disk. `minigpt.train` returns one, and `minigpt.open_run` opens one.

    Every attribute is read from the folder when it is used, so that it follows a training that is still running. The model
    and the tokenizer are kept until there is a newer checkpoint. Raises `ValueError` if `path` is not the folder of a run.

    >>> import os, tempfile, minigpt
    >>> _ = os.chdir(tempfile.mkdtemp())
    >>> model = {"tokenizer": "bytes", "context_length": 8, "d_model": 8, "n_layers": 1, "n_heads": 2}
    >>> run = minigpt.train(steps=3, stories=30, eval_every=3, sample_every=0, threads=1, quiet=True, **model)
    >>> run  # doctest: +ELLIPSIS
    Run('runs/storybook-quick', 4,976 parameters, step 3 of 3, validation loss ...)
    >>> run.metrics["loss"].shape
    (3,)
    >>> len(run.sample("Once", max_new_tokens=5, seed=1)) > 4
    True
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        "The folder of the run."
        self._folder = RunFolder(self.path)
        self._loaded: tuple[object, GPT, Tokenizer | None] | None = None
        if not (self.path / "run.json").is_file():
            raise ValueError(f"{path} is not the folder of a run: it has no run.json{_hint(self.path)}")

    @property
    def settings(self) -> Settings:
        """The settings of the run, as in config.toml. Raises `ValueError` if there are none, because the run was imported."""
        self._check_trained()
        return Settings(**read_settings(self._folder.config))

    @property
    def model(self) -> GPT:
        """The model of the newest checkpoint. Raises `ValueError` if there is no checkpoint yet."""
        return self._load()[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `ValueError` if there is none: a model can be imported without it."""
        if (tokenizer := self._load()[1]) is None:
            raise ValueError(f"{self.path} has no tokenizer (tokenizer.json)")
        return tokenizer

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.jsonl as arrays with one element for each step.

        The columns are step, tokens, loss, lr, grad_norm, tokens_per_s and elapsed_s and, with NaN at steps where they were not
        measured, val_loss, val_bits_per_byte, and norms.LAYER.gradient, norms.LAYER.weight and norms.LAYER.update.
        `pandas.DataFrame(run.metrics)` is a table of them.
        """
        return columns(self._folder.records("metrics.jsonl"))

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The samples that were generated during the training, as in samples.jsonl."""
        return self._folder.records("samples.jsonl")

    @property
    def snapshots(self) -> list[int]:
        """The steps of the snapshots, whose weights `model_at` returns."""
        return [step_of(path) for path in snapshots(self._folder)]

    def model_at(self, step: int) -> GPT:
        """Return the model after a step of which there is a snapshot or a checkpoint.

        Raises `ValueError` if there is none. The message lists those that there are; `minigpt replay` adds others.
        """
        return load(self.path, step)[0]

    @property
    def finished(self) -> bool:
        """Whether the training reached its last step. Otherwise `minigpt.train(out=run.path, resume=True)` continues it."""
        steps = self.metrics["step"]
        return self._folder.config.exists() and steps.size > 0 and int(steps[-1]) >= self.settings.steps

    def sample(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 200,
        seed: int = 0,
        stop: str | Sequence[str] = (),
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
            String that ends the text, or a list of them. It is not part of the text.
        overflow
            If the text exceeds context_length, use only the last tokens ("slide"), or raise `ValueError` ("refuse").
        sampling
            temperature (0.8 by default), top_k (40), top_p, min_p and repetition_penalty; see `minigpt.np.sampling.Sampling`.

        Raises `ValueError` if an argument is invalid.
        """
        check_sampling(prompt, max_new_tokens, sampling)
        model, tokenizer, ends = self.model, self.tokenizer, (stop,) if isinstance(stop, str) else tuple(stop)
        chunks = stream_text(model, tokenizer, prompt, max_new_tokens, seed=seed, stop=ends, overflow=overflow, **sampling)
        return prompt + "".join(chunks)

    def evaluate(
        self, data: str | Path | Sequence[str | Path] | None = None, *, field: str = "text", threads: int = 0
    ) -> Evaluation:
        """Return the loss, the perplexity, the bits per byte and the accuracy on a text.

        Parameters
        ----------
        data
            Files or folders of text. By default, the validation text of the run.
        field
            The field of `.jsonl` records that contains the text.
        threads
            Number of threads; 0 means all cores that this process may use.
        """
        with errors_in_python_terms():
            return evaluate(self.path, None if data is None else text_names(data), field=field, threads=threads)

    def plot(self) -> "Figure":
        """Return a matplotlib figure of the loss, the learning rate and the gradient norm over the steps.

        A notebook shows it. `run.plot().savefig("curves.png")` writes it to a file.
        """
        from minigpt.report.curves import figure
        from minigpt.report.files import load_run

        self._check_trained()
        drawn: Any = figure(load_run(self.path))
        drawn._repr_png_ = partial(_png, drawn)  # a notebook that has not imported pyplot would show only its size
        return drawn

    def __repr__(self) -> str:
        path = os.path.relpath(self.path) if self.path.is_relative_to(Path.cwd()) else str(self.path)
        try:
            facts = self._facts()
        except (OSError, ValueError) as error:
            facts = [f"cannot be read: {error}"]
        return f"Run({', '.join([repr(path), *facts])})"

    def _facts(self) -> list[str]:
        info, metrics = self._folder.read_json("run.json"), self.metrics
        facts = [f"{info['parameters']:,} parameters"] if isinstance(info.get("parameters"), int) else []
        if not self._folder.config.exists():
            return [*facts, f"imported from {info['imported_from']!r}"] if "imported_from" in info else facts
        done = int(metrics["step"][-1]) if metrics["step"].size else 0
        facts.append(f"step {done:,} of {self.settings.steps:,}")
        losses = metrics["val_loss"][np.isfinite(metrics["val_loss"])]
        return [*facts, f"validation loss {losses[-1]:.2f}"] if losses.size else facts

    def _load(self) -> tuple[GPT, Tokenizer | None]:
        """Return the model and the tokenizer. They are loaded again if another checkpoint has become the newest one."""
        newest = [(path.name, path.stat().st_mtime_ns) for path in checkpoints(self._folder)[-1:]]
        if self._loaded is None or self._loaded[0] != newest:
            self._loaded = (newest, *load(self.path))
        return self._loaded[1:]

    def _check_trained(self) -> None:
        if not self._folder.config.exists():
            raise ValueError(f"{self.path} has no settings and no metrics (config.toml): it was imported, or has not started")


def open_run(where: str | Path) -> Run:
    """Open a run on disk, by its path or by its name in runs/. It may be interrupted, imported, or still training.

    Raises `ValueError` if there is no run. `minigpt.load` and `GPT.from_pretrained` open other models.
    """
    path = find_run(where)
    if not path.exists():
        raise ValueError(f"there is no run {str(where)!r}, neither as a path nor in {RUNS}/{nearest_run(path)}")
    return Run(path)


def _png(figure: "Figure") -> bytes:
    """Return a figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _hint(path: Path) -> str:
    """Describe a folder that is not a run, for an error message."""
    if (path / "model.safetensors").is_file():
        kind = "a Hugging Face directory" if (path / "config.json").is_file() else "a checkpoint"
        return f" (it is {kind}, which minigpt.load and GPT.from_pretrained open)"
    return "" if path.exists() else nearest_run(path)

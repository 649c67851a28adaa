"""The settings of a training run. `resolve` finds their values."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from minigpt.data.atomic import atomic_replace
from minigpt.data.corpus import SURROGATE
from minigpt.np.config import MODEL_FIELDS, PRESETS, Activation, ModelConfig, ModelOptions, Norm, PositionEncoding, option
from minigpt.training.muon import Coefficients, Muon, Scale
from minigpt.training.presets import QUICK, RECIPES
from minigpt.training.schedule import Schedule

FINAL_SAMPLES = 5
MIN_STEPS_TO_SAMPLE = 20  # before, a model that was not trained further writes random tokens
MAX_VOCAB_SIZE = 1 << 20  # beyond this, the BPE trainer aborts the process when it runs out of memory
MAX_THREADS = 1 << 10
MAX_ITERATIONS = 20  # of Newton-Schulz; more change nothing
CHOICES = {
    "recipe": tuple(RECIPES),
    "preset": tuple(PRESETS),
    "on_nonfinite": ("stop", "skip"),
    "snapshots": ("auto", "powers", "none"),
    "optimizer": ("muon", "adamw"),
    "schedule": get_args(Schedule),
    "muon_coefficients": get_args(Coefficients),
    "muon_scale": get_args(Scale),
}


def _quick(name: str) -> Any:
    """Return the field `name` of `ModelOptions` with the value of the preset quick as its default."""
    return option(QUICK[name], ModelOptions.__dataclass_fields__[name].metadata["help"])


@dataclass(frozen=True, kw_only=True)
class Settings(ModelOptions):
    """The settings of a run. The defaults are those of the preset quick.

    Raises
    ------
    ValueError
        If a value is not allowed. The message starts with the name of the setting.
    """

    context_length: int = _quick("context_length")
    d_model: int = _quick("d_model")
    n_layers: int = _quick("n_layers")
    n_heads: int = _quick("n_heads")
    activation: Activation = _quick("activation")
    positions: PositionEncoding = _quick("positions")
    norm: Norm = _quick("norm")
    qk_norm: bool = _quick("qk_norm")
    attention_bias: bool = _quick("attention_bias")
    feed_forward_bias: bool = _quick("feed_forward_bias")
    tied: bool = _quick("tied")
    norm_epsilon: float = _quick("norm_epsilon")

    data: tuple[str, ...] = option(
        ("storybook",),
        "Training text: storybook (built in), tinystories, files and folders of text (.txt, .jsonl, .gz), or - (standard input).",
    )
    val_data: str | None = option(
        None, "Validation text; by default, every 20th document in --data, or the last tenth of a single document, is held out."
    )
    field: str = option("text", "Field of the records of .jsonl files that contains the text.")
    tokenizer: str | None = option(
        None, "char, bytes, or the file or folder of a tokenizer; by default, a byte-level BPE is trained."
    )
    vocab_size: int = option(QUICK["vocab_size"], "Vocabulary size of the BPE tokenizer, if one is trained.")
    stories: int = option(20_000, "Number of training stories that the storybook generates.")

    init: str | None = option(
        None, "Run or Hugging Face directory to start from: its weights, its model settings and its tokenizer are used."
    )
    preset: str = option("quick", f"Preset, the sizes of the model and the number of steps: {', '.join(PRESETS)}.")
    recipe: str = option(
        "default",
        "Recipe, the form of the model and the settings of the optimizer: default (Qwen 3's form, Muon), or gpt2 (GPT-2's form, "
        "AdamW). A preset named after a family keeps the family's form.",
    )

    batch_size: int = option(QUICK["batch_size"], "Number of sequences in a batch.")
    micro_batch: int = option(
        0, "Number of sequences that a worker processes at a time (gradient accumulation); 0 means about 1,024 tokens."
    )
    steps: int = option(QUICK["steps"], "Number of training steps.")
    optimizer: Literal["muon", "adamw"] = option(
        QUICK["optimizer"],
        "Optimizer of the matrices in the blocks, which are the weights of the linear layers: muon or adamw. The optimizer of "
        "all other parameters is adamw.",
    )
    lr: float = option(
        QUICK["lr"],
        "Peak learning rate of the matrices in the blocks. Those of the other parameters are --embedding-lr, --head-lr and "
        "--vector-lr.",
    )
    embedding_lr: float = option(
        QUICK["embedding_lr"],
        "Peak learning rate of the token embedding, also as a tied LM head, and of learned positions; 0 means lr.",
    )
    head_lr: float = option(QUICK["head_lr"], "Peak learning rate of an LM head that is not tied; 0 means lr.")
    vector_lr: float = option(QUICK["vector_lr"], "Peak learning rate of biases, and of gamma and beta of the norms; 0 means lr.")
    schedule: Schedule = option(
        QUICK["schedule"],
        "Schedule of all learning rates after the warmup: linear (constant, and then a linear decay), or cosine (half a period).",
    )
    decay: float = option(0.6, "Fraction of the steps in which the linear schedule decays.")
    warmup: int = option(
        0, "Number of steps of linear warmup; 0 means a tenth of the steps, but at most 10 with muon and 100 with adamw."
    )
    min_lr_ratio: float = option(
        QUICK["min_lr_ratio"],
        "Learning rate at the end of the schedule, as a fraction of the peak (not an absolute learning rate).",
    )
    zero_init: bool = option(
        QUICK["zero_init"], "Initialize the output projections of attention and of the feed-forward network with zeros."
    )
    embedding_std: float = option(
        QUICK["embedding_std"], "Standard deviation of the initial embeddings; a tied LM head needs about 0.02."
    )
    weight_decay: float = option(
        QUICK["weight_decay"], "Weight decay of the parameters that adamw updates; biases and norms are not decayed."
    )
    beta1: float = option(QUICK["beta1"], "Decay rate of adamw's average of the gradients.")
    beta2: float = option(QUICK["beta2"], "Decay rate of adamw's average of the squared gradients.")
    momentum: float = option(Muon.momentum, "Decay rate of muon's average of the gradients.")
    muon_weight_decay: float = option(Muon.weight_decay, "Weight decay of muon.")
    muon_iterations: int = option(Muon.iterations, "Number of Newton-Schulz iterations of muon.")
    muon_coefficients: Coefficients = option(Muon.coefficients, "Coefficients of these iterations: polar_express or jordan.")
    muon_scale: Scale = option(
        Muon.scale, "Size of muon's updates: spectral (the same rate suits all widths), or rms (that of adamw's updates)."
    )
    clip: float = option(QUICK["clip"], "Maximum global norm of the gradients; 0 disables clipping.")
    seed: int = option(0, "Seed of the initial weights, the batches, dropout, and the storybook.")
    threads: int = option(0, "Number of workers, each on one core; 0 means all cores that this process may use.")

    watchdog: int = option(
        600, "Seconds that a rank waits for others before it ends an MPI job (in some phases 10 times as many); 0 means no limit."
    )

    eval_every: int = option(QUICK["eval_every"], "Number of steps between validations.")
    eval_tokens: int = option(65_536, "Number of validation tokens to evaluate, the same tokens each time.")
    checkpoint_every: int = option(250, "Number of steps between checkpoints.")
    keep: int = option(2, "Number of newest checkpoints to keep, in addition to the one with the best validation loss.")
    snapshots: Literal["auto", "powers", "none"] = option(
        "auto",
        "Steps whose weights are kept, in addition to the checkpoints: powers (of two, step 0 and the last step), none, or auto, "
        "which means powers for models of at most 16 million parameters, and none for larger ones.",
    )
    on_nonfinite: Literal["stop", "skip"] = option("stop", "What to do if a gradient is not finite: stop, or skip the step.")
    sample_every: int = option(
        QUICK["sample_every"], "Number of steps between samples of generated text; 0 means only at the end."
    )
    samples: int | None = option(
        None,
        "Number of samples of generated text at the end; by default 5, or none after fewer than 20 steps. Without them, there is "
        "no sample before training either.",
    )
    prompt: str = option("", "Prompt of the samples.")

    def __post_init__(self) -> None:
        self._check("data", bool(self.data), "storybook, tinystories, or files and folders of text")
        for name in ("steps", "batch_size", "vocab_size", "stories", "eval_every", "eval_tokens", "checkpoint_every", "keep"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("data", "val_data", "field", "tokenizer", "init", "prompt"):
            self._check(name, _is_utf8(getattr(self, name)), "valid UTF-8")
        self._check("vocab_size", self.vocab_size <= MAX_VOCAB_SIZE, f"at most {MAX_VOCAB_SIZE:,}")
        self._check("threads", self.threads <= MAX_THREADS, f"at most {MAX_THREADS:,}")
        self._check("seed", self.seed < 1 << 63, "less than 2**63")
        self._check("weight_decay", self.weight_decay < math.inf, "finite")
        for name in ("micro_batch", "warmup", "threads", "watchdog", "sample_every", "clip", "weight_decay", "seed"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("embedding_std", "embedding_lr", "head_lr", "vector_lr", "muon_weight_decay"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "finite, and 0 or more")
        self._check("muon_iterations", 1 <= self.muon_iterations <= MAX_ITERATIONS, f"from 1 to {MAX_ITERATIONS}")
        self._check("decay", 0 <= self.decay <= 1, "from 0 to 1")
        self._check("samples", self.samples is None or self.samples >= 0, "0 or more")
        self._check("lr", 0 < self.lr < math.inf, "a finite number greater than 0")
        for name in ("beta1", "beta2", "momentum"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        self._check("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            self._check(name, value in choices, f"one of: {', '.join(choices)}{suggestion(value, choices)}")
        self.model(self.vocab_size)

    def _check(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {expected}")

    def model(self, vocab_size: int) -> ModelConfig:
        """Return the configuration of the model for a vocabulary of this size."""
        return ModelConfig(**{name: getattr(self, name) for name in MODEL_FIELDS if name != "vocab_size"}, vocab_size=vocab_size)

    @property
    def warmup_steps(self) -> int:
        """The number of warmup steps."""
        return self.warmup or max(1, min(10 if self.optimizer == "muon" else 100, self.steps // 10))

    @property
    def final_samples(self) -> int:
        """The number of samples at the end."""
        if self.samples is None:
            return FINAL_SAMPLES if self.steps >= MIN_STEPS_TO_SAMPLE else 0
        return self.samples

    def resolved(self, model: ModelConfig, threads: int) -> "Settings":
        """Return these settings with every automatic value replaced by the actual one, as config.toml stores them."""
        return replace(self, vocab_size=model.vocab_size, d_ff=model.d_ff, warmup=self.warmup_steps, threads=threads)

    def save(self, path: Path) -> None:
        """Write the settings to a TOML file, without those that are None."""
        import tomli_w

        values = {name: value for name, value in asdict(self).items() if value is not None}
        with atomic_replace(path) as temporary:
            temporary.write_bytes(tomli_w.dumps(values).encode())


def _is_utf8(value: str | tuple[str, ...] | None) -> bool:
    """Return whether UTF-8 can encode the value. File names need not be valid UTF-8."""
    texts = value if isinstance(value, tuple) else (value or "",)
    return not any(SURROGATE.search(text) for text in texts)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message that names the known name which is most similar, or an empty string.

    >>> suggestion("tinny", ("quick", "tiny"))
    "; did you mean 'tiny'?"
    """
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

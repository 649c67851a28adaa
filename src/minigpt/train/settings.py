"""Everything that decides a training run, as one flat set of named values: flags, `config.toml`, and defaults by preset.

A `Settings` is what a run was asked to do, resolved to the last default; `config.toml` holds exactly that.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from minigpt.data.atomic import replacing
from minigpt.data.corpus import SURROGATE
from minigpt.np.config import MODEL_FIELDS, PRESETS, Activation, ModelConfig, Norm, NormPlacement, Positions, RopePairing

MOST_TOKENS = 1 << 20  # in a vocabulary: the trainer of BPE ends the process where it cannot have the memory it asks for
MOST_THREADS = 1 << 10  # in a process


def option(default: Any, help: str) -> Any:
    """A field of the settings: its default, and one sentence for `minigpt train --help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. Raises `ValueError`, naming the setting, for what cannot be."""

    data: tuple[str, ...] = option(("storybook",), "storybook, tinystories, or files and folders of text (.txt, .jsonl).")
    val_data: str | None = option(None, "Text to validate on; without it every 20th document is held out.")
    tokenizer: str | None = option(None, "char, bytes, or a tokenizer's file or folder; without it a BPE is trained.")
    vocab_size: int = option(2048, "Tokens in a vocabulary that is trained.")
    stories: int = option(20_000, "Stories that the storybook tells for training.")

    init: str | None = option(None, "A run or Hugging Face directory to go on from: its weights, its shape, its tokenizer.")
    preset: str = option("quick", f"Sizes to begin with: {', '.join(PRESETS)}.")
    context_length: int = option(256, "Largest number of tokens the model looks at together.")
    d_model: int = option(128, "Width of the residual stream.")
    n_layers: int = option(4, "Number of blocks.")
    n_heads: int = option(4, "Attention heads in each block.")
    n_kv_heads: int = option(0, "Heads of keys and values, shared by the n_heads; 0 is as many.")
    d_head: int = option(0, "Width of one head; 0 is d_model divided among the heads.")
    d_ff: int = option(0, "Hidden width of the feed-forward network; 0 is four times d_model.")
    activation: Activation = option("gelu", "Activation of the feed-forward network.")
    positions: Positions = option("learned", "Learned embeddings, or rope: queries and keys are rotated.")
    rope_theta: float = option(10_000.0, "Base of the wave lengths of rope.")
    rope_pairing: RopePairing = option("half", "Columns that rope rotates together: half a head apart, or interleaved.")
    norm: Norm = option("layer", "Layer norm, or rms: without mean and beta.")
    norm_placement: NormPlacement = option("pre", "Norm before each branch (pre) or after each sum (post).")
    qk_norm: bool = option(False, "A norm of each query and each key, before their product.")
    bias: bool = option(True, "Biases in the linear layers of the blocks.")
    tied: bool = option(True, "The head shares its weight with the token embedding.")
    dropout: float = option(0.0, "Probability with which an activation is dropped in training.")
    norm_epsilon: float = option(1e-5, "Added to the variance (rms: to the mean square) in the norms.")

    batch_size: int = option(8, "Sequences in a batch.")
    micro_batch: int = option(0, "Sequences a worker takes at a time; 0: about 1,024 tokens. Gradients add up to the batch's.")
    steps: int = option(1200, "Training steps.")
    lr: float = option(3e-3, "Highest learning rate.")
    warmup: int = option(0, "Steps of linear warm-up; 0 is a tenth of the run, at most 100.")
    final_lr: float = option(0.1, "Learning rate at the end of the cosine, as a share of the highest.")
    weight_decay: float = option(0.1, "Decoupled weight decay of the matrices.")
    beta1: float = option(0.9, "AdamW's memory of gradients.")
    beta2: float = option(0.99, "AdamW's memory of squared gradients.")
    clip: float = option(1.0, "Largest global norm of a gradient; 0 never clips.")
    seed: int = option(0, "Seed of the initial weights, the batches, dropout and the storybook.")
    threads: int = option(0, "Workers that share each batch, one a core; 0 is all cores this process may use.")

    watchdog: int = option(600, "Seconds that ranks of an MPI job wait for each other before the job is ended; 0: for ever.")

    eval_every: int = option(200, "Steps between two validations.")
    eval_tokens: int = option(65_536, "Tokens of the validation split that are measured, the same each time.")
    checkpoint_every: int = option(250, "Steps between two checkpoints.")
    keep: int = option(2, "Newest checkpoints that are kept, beside the one with the best validation loss.")
    on_nonfinite: Literal["stop", "skip"] = option("stop", "When a gradient is not finite: stop, or skip the step and count it.")
    sample_every: int = option(200, "Steps between two sample stories; 0 tells none on the way.")
    prompt: str = option("", "How sample stories begin.")

    def __post_init__(self) -> None:
        self._check("data", bool(self.data), "storybook, tinystories, or files and folders of text")
        for name in ("steps", "batch_size", "vocab_size", "stories", "eval_every", "eval_tokens", "checkpoint_every", "keep"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("data", "val_data", "tokenizer", "init", "prompt"):
            self._check(name, _is_text(getattr(self, name)), "text that is UTF-8")
        self._check("vocab_size", self.vocab_size <= MOST_TOKENS, f"at most {MOST_TOKENS:,}")
        self._check("threads", self.threads <= MOST_THREADS, f"at most {MOST_THREADS:,}")
        self._check("seed", self.seed < 1 << 63, "less than 2**63")
        self._check("weight_decay", self.weight_decay < math.inf, "finite")
        for name in ("micro_batch", "warmup", "threads", "watchdog", "sample_every", "clip", "weight_decay", "seed"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("lr", 0 < self.lr < math.inf, "a number greater than 0")
        for name in ("beta1", "beta2"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        self._check("final_lr", 0 <= self.final_lr <= 1, "from 0 to 1")
        self._check("on_nonfinite", self.on_nonfinite in ("stop", "skip"), "stop or skip")
        self._check("preset", self.preset in PRESETS, f"one of: {', '.join(PRESETS)}{_nearest(self.preset, list(PRESETS))}")
        self.model(self.vocab_size)

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {expected}")

    def model(self, vocab_size: int) -> ModelConfig:
        """The model's configuration for a vocabulary of this size."""
        return ModelConfig(**{name: getattr(self, name) for name in MODEL_FIELDS if name != "vocab_size"}, vocab_size=vocab_size)

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up."""
        return self.warmup or max(1, min(100, self.steps // 10))

    def resolved(self, model: ModelConfig, threads: int) -> "Settings":
        """The same settings with nothing left to be worked out: what config.toml holds."""
        return replace(self, vocab_size=model.vocab_size, d_ff=model.d_ff, warmup=self.warmup_steps, threads=threads)

    def save(self, path: Path) -> None:
        """Write them as TOML; values that are None are left out."""
        import tomli_w

        values = {name: value for name, value in asdict(self).items() if value is not None}
        with replacing(path) as temporary:
            temporary.write_bytes(tomli_w.dumps(values).encode())


def _is_text(value: str | tuple[str, ...] | None) -> bool:
    """Whether it can be written as UTF-8, which the name of a file need not be."""
    texts = value if isinstance(value, tuple) else (value or "",)
    return not any(SURROGATE.search(text) for text in texts)


_USUAL = {"steps": 1000, "eval_every": 100, "lr": 1e-3, "beta2": 0.95, "vocab_size": 4096}
PRESET_TRAINING: dict[str, dict[str, Any]] = {
    "quick": {"steps": 1200, "eval_every": 200, "batch_size": 8, "lr": 3e-3, "beta2": 0.99, "vocab_size": 2048},
    "nano": {**_USUAL, "steps": 2000, "batch_size": 12, "lr": 3e-3, "beta2": 0.99},
    "tiny": {**_USUAL, "batch_size": 32},
    "small": {**_USUAL, "batch_size": 16},
    "base": {**_USUAL, "batch_size": 8},
    "gpt2": {**_USUAL, "batch_size": 4, "lr": 6e-4},
    "llama-tiny": {**_USUAL, "batch_size": 32},
    "llama-15m": {**_USUAL, "batch_size": 16},
}
FINE_TUNING = {"lr": 3e-4}
"What else a preset says: how to train its size. A small batch wants a longer memory of squared gradients."


def resolve(given: Mapping[str, Any], config: Path | None = None, resume: bool = False) -> Settings:
    """Settings from what was given, over a file, over a preset, over the defaults.

    A preset that is given stands above the file, in what the preset says; the shape of a model to go on from (`init`) above
    both. To `resume` a run, its own file has all that already.

    >>> resolve({"preset": "tiny", "d_model": 64}).n_layers
    4
    """
    from_file = read_settings(config) if config else {}
    name = given.get("preset", from_file.get("preset", Settings.preset))
    sizes = {**PRESET_TRAINING.get(name, {}), **PRESETS.get(name, {})}
    widths = {"d_ff": 0, "d_head": 0}  # a file's belong to its own d_model and n_heads
    below = {**from_file, **widths, **sizes} if "preset" in given else {**sizes, **from_file}
    if "d_model" in given or "n_heads" in given:
        below |= widths if "d_model" in given else {"d_head": 0}
    init = given.get("init", from_file.get("init"))
    if init and not resume:
        below |= {} if "lr" in from_file else FINE_TUNING
        below |= _shape_of(init, given)
        if from_file.get("init") == init and "context_length" in from_file:
            below["context_length"] = from_file["context_length"]  # perhaps a smaller one
    try:
        return Settings(**{**below, **given})
    except ValueError as error:
        if config and str(error).split(" ", 1)[0] in from_file.keys() - given.keys():
            raise ValueError(f"{config}: {error}") from None
        raise


def _shape_of(init: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a model to go on from decides. Raises `ValueError` where others were given."""
    from minigpt.interop.load import read_config

    shape = asdict(read_config(init))
    del shape["dropout"]
    for name, value in shape.items():
        if name != "context_length" and given.get(name, value) != value:
            raise ValueError(f"{name} is {given[name]!r}, but the model in {init} has {value!r}")
    return shape


_LONG_KEY = re.compile(r"""(?<![\w-])((?>[\w-]+|"(\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*+\.[ \t]*+){100}""")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file; raises `ValueError` naming the file and what is wrong in it."""
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    known = {f.name: f.type for f in fields(Settings)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{path}: there is no setting {name!r}{_nearest(name, list(known))}")
        values[name] = _typed(value, known[name], f"{path}: {name}")
    return values


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML file says. Raises `ValueError` for what is none, and for what is nested deeper than the parser can go."""
    if _LONG_KEY.search(text):  # the parser takes time and memory in the square of its length
        raise ValueError("a key has more than 100 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _nearest(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _typed(value: Any, kind: Any, where: str) -> Any:
    """The value, if it is of the kind; whole numbers pass for fractions, lists for tuples."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{where} has more than the 64 bits of a whole number in TOML")
    if kind == tuple[str, ...]:
        if not (isinstance(value, list) and value and all(isinstance(item, str) for item in value)):
            raise ValueError(f"{where} is {_shown(value)}, but must be a list of texts")
        return tuple(value)
    kinds = [k for k in (get_args(kind) or (kind,)) if k is not type(None)]
    if isinstance(kinds[0], str):  # Literal
        kinds = [str]
    expected = kinds[0]
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise ValueError(f"{where} is {_shown(value)}, but must be {names[expected]}")
    return value


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; tables within tables
        return f"a {type(value).__name__} too large to show"

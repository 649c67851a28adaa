"""The settings of a training run, which come from command-line flags, a `config.toml` file, and presets."""

import math
import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from minigpt.data.atomic import atomic_replace
from minigpt.data.corpus import SURROGATE
from minigpt.np.config import GPT2, MODEL_FIELDS, PRESETS, QWEN3, RENAMED_FIELDS, Activation, ModelConfig, ModelOptions, Norm, PositionEncoding, option, upgrade_fields
from minigpt.training.muon import Coefficients, Muon, Scale
from minigpt.training.schedule import Schedule

FINAL_SAMPLES = 5
MIN_STEPS_TO_SAMPLE = 20  # before, a model that was not trained further writes random tokens
MAX_VOCAB_SIZE = 1 << 20  # beyond this, the BPE trainer aborts the process when it runs out of memory
MAX_THREADS = 1 << 10
MAX_ITERATIONS = 20  # of Newton-Schulz; more change nothing
MIN_LR_RATIO = 1e-3  # a smaller min_lr_ratio is probably meant as an absolute learning rate


def _quick(name: str) -> Any:
    """Return the field `name` of `ModelOptions` with its value in the preset quick as its default."""
    return option({**QWEN3, **PRESETS["quick"]}[name], ModelOptions.__dataclass_fields__[name].metadata["help"])


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
    vocab_size: int = option(2048, "Vocabulary size of the BPE tokenizer, if one is trained.")
    stories: int = option(20_000, "Number of training stories that the storybook generates.")

    init: str | None = option(
        None, "Run or Hugging Face directory to start from: its weights, its model settings and its tokenizer are used."
    )
    preset: str = option("quick", f"Preset of model and training settings: {', '.join(PRESETS)}.")

    batch_size: int = option(8, "Number of sequences in a batch.")
    micro_batch: int = option(
        0, "Number of sequences that a worker processes at a time (gradient accumulation); 0 means about 1,024 tokens."
    )
    steps: int = option(1200, "Number of training steps.")
    recipe: str = option(
        "default", "Recipe, the form of the model and the settings of the optimizer: default, or gpt2 (AdamW and GPT-2's form)."
    )
    optimizer: Literal["muon", "adamw"] = option(
        "muon", "Optimizer of the matrices in the blocks. The other parameters always have AdamW."
    )
    lr: float = option(0.015, "Peak learning rate of the matrices in the blocks, and of every group whose own rate is 0.")
    embedding_lr: float = option(0.05, "Peak learning rate of the embeddings; 0 means lr.")
    head_lr: float = option(0.01, "Peak learning rate of an untied LM head; 0 means lr.")
    vector_lr: float = option(0.02, "Peak learning rate of gamma, beta and biases; 0 means lr.")
    schedule: Schedule = option("linear", "Learning rate after the warmup: constant and then linear, or a cosine.")
    decay: float = option(0.6, "Fraction of the steps in which the linear schedule decays.")
    warmup: int = option(
        0, "Number of steps of linear warmup; 0 means a tenth of the steps, but at most 10 with Muon and 100 without."
    )
    min_lr_ratio: float = option(
        0.0, "Learning rate at the end of the schedule, as a fraction of the peak (not an absolute learning rate)."
    )
    zero_init: bool = option(True, "Initialize the matrices that write to the residual stream with zeros.")
    weight_decay: float = option(0.1, "Weight decay of AdamW for matrices; biases and norms are not decayed.")
    beta1: float = option(0.9, "Decay rate of AdamW's average of the gradients.")
    beta2: float = option(0.99, "Decay rate of AdamW's average of the squared gradients.")
    momentum: float = option(Muon.momentum, "Decay rate of Muon's average of the gradients.")
    muon_weight_decay: float = option(Muon.weight_decay, "Weight decay of Muon.")
    muon_iterations: int = option(Muon.iterations, "Number of Newton-Schulz iterations of Muon.")
    muon_coefficients: Coefficients = option(Muon.coefficients, "Coefficients of these iterations: polar_express or jordan.")
    muon_scale: Scale = option(
        Muon.scale, "Size of Muon's updates: spectral (the same for all widths), or rms (that of AdamW's updates)."
    )
    clip: float = option(1.0, "Maximum global norm of the gradients; 0 disables clipping.")
    seed: int = option(0, "Seed of the initial weights, the batches, dropout, and the storybook.")
    threads: int = option(0, "Number of workers, each on one core; 0 means all cores that this process may use.")

    watchdog: int = option(
        600, "Seconds that a rank waits for others before it ends an MPI job (in some phases 10 times as many); 0 means no limit."
    )

    eval_every: int = option(200, "Number of steps between validations.")
    eval_tokens: int = option(65_536, "Number of validation tokens to evaluate, the same tokens each time.")
    checkpoint_every: int = option(250, "Number of steps between checkpoints.")
    keep: int = option(2, "Number of newest checkpoints to keep, in addition to the one with the best validation loss.")
    on_nonfinite: Literal["stop", "skip"] = option("stop", "What to do if a gradient is not finite: stop, or skip the step.")
    sample_every: int = option(200, "Number of steps between samples of generated text; 0 means only at the end.")
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
        for name in ("embedding_lr", "head_lr", "vector_lr", "muon_weight_decay"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "finite, and 0 or more")
        self._check("muon_iterations", 1 <= self.muon_iterations <= MAX_ITERATIONS, f"from 1 to {MAX_ITERATIONS}")
        self._check("decay", 0 <= self.decay <= 1, "from 0 to 1")
        self._check("samples", self.samples is None or self.samples >= 0, "0 or more")
        self._check("lr", 0 < self.lr < math.inf, "a finite number greater than 0")
        for name in ("beta1", "beta2", "momentum"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        self._check("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1")
        for name, choices in CHOICES.items():
            self._check(name, getattr(self, name) in choices, " or ".join(choices))
        self._check("preset", self.preset in PRESETS, f"one of: {', '.join(PRESETS)}{_suggestion(self.preset, list(PRESETS))}")
        self._check("recipe", self.recipe in RECIPES, f"one of: {', '.join(RECIPES)}{_suggestion(self.recipe, list(RECIPES))}")
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


CHOICES = {
    "on_nonfinite": ("stop", "skip"),
    "optimizer": ("muon", "adamw"),
    "schedule": get_args(Schedule),
    "muon_coefficients": get_args(Coefficients),
    "muon_scale": get_args(Scale),
}

PRESET_TRAINING: dict[str, dict[str, Any]] = {
    "quick": {"steps": 1200, "eval_every": 200, "batch_size": 8, "vocab_size": 2048},
    "nano": {"steps": 2000, "batch_size": 12},
    "tiny": {"batch_size": 32},
    "small": {"batch_size": 16},
    "base": {"batch_size": 32},
    "gpt2": {"batch_size": 4, "recipe": "gpt2"},
    "llama-tiny": {"batch_size": 32},
    "llama-15m": {"batch_size": 16},
}
PRESET_TRAINING = {name: {"steps": 1000, "eval_every": 100, "vocab_size": 4096, **values} for name, values in PRESET_TRAINING.items()}
"The training settings of each preset."

_GPT2_RECIPE = {
    **GPT2,
    "optimizer": "adamw",
    "lr": 1e-3,
    "embedding_lr": 0.0,
    "head_lr": 0.0,
    "vector_lr": 0.0,
    "schedule": "cosine",
    "min_lr_ratio": 0.1,
    "zero_init": False,
    "beta2": 0.95,
}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {name: Settings.__dataclass_fields__[name].default for name in _GPT2_RECIPE},
    "gpt2": _GPT2_RECIPE,
}
"The settings of each recipe. A preset that is named after a family keeps the form of the family."
GPT2_RATES: dict[str, dict[str, float]] = {
    "quick": {"lr": 3e-3, "beta2": 0.99},
    "nano": {"lr": 3e-3, "beta2": 0.99},
    "gpt2": {"lr": 6e-4},
}
"The settings of the recipe gpt2 that depend on the preset. Small batches use a larger beta2."
FINE_TUNING = {"recipe": "gpt2", "lr": 3e-4}
"The recipe of training that starts from a model (`init`), and its learning rate."
EARLIER_RECIPE = {"lr", "beta1", "beta2", "weight_decay", "clip", "warmup", "min_lr_ratio"}
"A config.toml without a recipe that contains all of these was written by a run before there were recipes: its recipe is gpt2."


def check_names(values: Iterable[str], where: str = "", others: Iterable[str] = ()) -> None:
    """Raise `ValueError` for the first name that is neither a setting nor in `others`. The message starts with `where`."""
    known = [*(field.name for field in fields(Settings)), *others]
    for name in values:
        if name not in (*known, *OLD_NAMES):
            raise ValueError(f"{where}there is no setting {name!r}{_suggestion(name, known)}")


def resolve(given: Mapping[str, Any], config: Path | None = None, resume: bool = False) -> Settings:
    """Return the settings of a run.

    A value that is not in `given` comes from the file `config`, else from the preset, else from the defaults. There are two
    exceptions: a preset in `given` takes precedence over the file, and the model settings of `init` take precedence over both.
    With `resume`, `config` belongs to the run itself and already contains the model settings.

    Raises
    ------
    ValueError
        If a value is not allowed. The message names the setting, and the file if the value comes from it.

    Examples
    --------
    >>> resolve({"preset": "tiny", "d_model": 64}).n_layers
    4
    """
    for setting in ("tokenizer", "init", "field"):
        if given.get(setting) == "":
            raise ValueError(f"{setting} is empty: give a value, or leave the option out")
    from_file = read_settings(config) if config else {}
    name = given.get("preset", from_file.get("preset", Settings.preset))
    init = given.get("init", from_file.get("init"))
    from_preset = {**PRESET_TRAINING.get(name, {}), **PRESETS.get(name, {})}
    recipe = _choose_recipe(given, from_file, from_preset.get("recipe"), bool(init) and not resume)
    from_recipe = {"recipe": recipe, **RECIPES.get(recipe, {}), **(GPT2_RATES.get(name, {}) if recipe == "gpt2" else {})}
    family = {field: from_preset[field] for field in ("d_ff", *QWEN3) if field in from_preset}
    automatic = {"d_ff": 0, "d_head": 0}  # the widths in a file depend on its own d_model, n_heads and activation
    values = {**from_recipe, **from_preset, **from_file}
    if recipe != from_file.get("recipe", recipe):
        values |= {**automatic, **from_recipe, **family}
    if "preset" in given:
        values |= {**automatic, **from_preset, **(GPT2_RATES.get(name, {}) if recipe == "gpt2" else {})}
    if "d_model" in given or "activation" in given:
        values |= automatic
    elif "n_heads" in given:
        values["d_head"] = 0
    if init and not resume:
        values |= _values_for_init(init, given, from_file)
    try:
        settings = Settings(**{**values, **given})
    except ValueError as error:
        if config and str(error).split(" ", 1)[0] in from_file.keys() - given.keys():
            raise ValueError(f"{config}: {error}") from None
        raise
    _check_min_lr_ratio(settings, "min_lr_ratio" in given, config)
    return settings


def _choose_recipe(given: Mapping[str, Any], from_file: Mapping[str, Any], of_preset: str | None, fine_tuning: bool) -> str:
    """Return the recipe: as given, or that of a preset in `given`, of the file, of training from a model, or of the preset."""
    if "recipe" in given:
        return str(given["recipe"])
    if "preset" in given and of_preset:
        return of_preset
    return str(from_file.get("recipe") or (FINE_TUNING["recipe"] if fine_tuning else of_preset) or Settings.recipe)


def _values_for_init(init: str, given: Mapping[str, Any], from_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for training from the model `init`. Raises `ValueError` if others were given."""
    from minigpt.interop.load import read_config

    values = asdict(read_config(init))
    del values["dropout"]
    for name, value in values.items():
        if name != "context_length" and given.get(name, value) != value:
            raise ValueError(f"{name} is {given[name]!r}, but the model in {init} has {value!r}")
    if from_file.get("init") == init and "context_length" in from_file:
        values["context_length"] = from_file["context_length"]  # it can be smaller than the model's
    rate = {} if "lr" in from_file or given.get("recipe", "gpt2") != "gpt2" else {"lr": FINE_TUNING["lr"]}
    return {**rate, **values}


def _check_min_lr_ratio(settings: Settings, given: bool, config: Path | None) -> None:
    """Refuse a given `min_lr_ratio` that looks like an absolute learning rate, and warn about one in a file."""
    value, lr = settings.min_lr_ratio, settings.lr
    if not 0 < value < MIN_LR_RATIO:
        return
    meaning = "it is a fraction of lr, not an absolute learning rate"
    if not given:
        warnings.warn(f"{config}: min_lr_ratio is {value:g}, but {meaning}", stacklevel=3)
        return
    remedy = "0" if value < MIN_LR_RATIO * lr else f"{value:g} / {lr:g} = {value / lr:.3g}"
    hint = f"; for a minimum of {value:g}, give {remedy}" if value <= lr else ""
    raise ValueError(f"min_lr_ratio is {value:g}, but must be 0 or from {MIN_LR_RATIO} to 1, because {meaning}{hint}")


OLD_NAMES = {"final_lr": ("min_lr_ratio",), **RENAMED_FIELDS}
"The settings of version 0.1 that have been renamed, with their current names."


def translate_old_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of version 0.1 under their current names. Raises `ValueError` if both names are given.

    >>> translate_old_names({"final_lr": 0.05, "bias": False})
    {'min_lr_ratio': 0.05, 'attention_bias': False, 'feed_forward_bias': False}
    """
    return upgrade_fields(values, OLD_NAMES)


_LONG_KEY = re.compile(r"""(?<![\w-])((?>[\w-]+|"(\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*+\.[ \t]*+){100}""")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, under their current names.

    Raises
    ------
    ValueError
        If the file cannot be read, or contains an unknown setting or a value of the wrong type. The message names the file.
    """
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    types = {field.name: field.type for field in fields(Settings)}
    old_types = {old: types[new[0]] for old, new in OLD_NAMES.items()}
    check_names(values, f"{path}: ")
    for name, value in values.items():
        values[name] = converted(value, (types | old_types)[name], f"{path}: {name}")
    try:
        values = translate_old_names(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if "recipe" not in values and values.keys() >= EARLIER_RECIPE:
        return {"recipe": "gpt2", **RECIPES["gpt2"], **values}
    return values


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML file. Raises `ValueError` if it is invalid, or nested more deeply than the parser supports."""
    if _LONG_KEY.search(text):  # the parser needs time and memory quadratic in the number of parts
        raise ValueError("a key has more than 100 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _suggestion(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def converted(value: Any, annotation: Any, where: str) -> Any:
    """Return a value as the type of a setting: integers become floats, and lists tuples, where needed.

    Raises `ValueError` for a value of another type. The message starts with `where`.
    """
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{where} is too large: integers in TOML have 64 bits")
    if annotation == tuple[str, ...]:
        if not (isinstance(value, list) and value and all(isinstance(item, str) for item in value)):
            raise ValueError(f"{where} is {_short_repr(value)}, but must be a list of strings")
        return tuple(value)
    types = [t for t in (get_args(annotation) or (annotation,)) if t is not type(None)]
    expected = str if isinstance(types[0], str) else types[0]  # the arguments of Literal are strings
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
        raise ValueError(f"{where} is {_short_repr(value)}, but must be {names[expected]}")
    return value


def _short_repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or deeply nested tables
        return f"a {type(value).__name__} too large to show"

"""Prepare the data of a run: tokenize it, or find it in the cache."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from minigpt.data.ranks import SINGLE_PROCESS, Ranks
from minigpt.data.sources import BUILT_IN
from minigpt.data.splits import Split
from minigpt.data.token_files import PreparedData, prepare
from minigpt.interop.load import tokenizer_path
from minigpt.np.config import PRESETS
from minigpt.runs.folder import RunFolder, find_run
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings

MIN_CONTEXT_LENGTH = 8  # a shorter text is an error


def prepare_data(
    settings: Settings, say: Callable[[str], None], resumed: RunFolder | None = None, ranks: Ranks = SINGLE_PROCESS
) -> PreparedData:
    """Tokenize the data of the settings, or find it in the cache. A run that is `resumed` keeps its tokenizer.

    Raises `ValueError` if the data or the tokenizer is invalid, or if the tokenizer cannot encode the prompt of the samples.
    """
    ranks.watchdog = settings.watchdog
    data = prepare(
        settings.data,
        settings.val_data,
        vocab_size=settings.vocab_size,
        tokenizer=_tokenizer(settings, resumed),
        stories=settings.stories,
        seed=settings.seed,
        field=settings.field,
        say=say,
        ranks=ranks,
    )
    try:
        data.tokenizer.encode(settings.prompt)
    except ValueError as error:
        raise ValueError(f"prompt is {settings.prompt!r}, but {error}") from None
    return data


def check_is_text(names: Sequence[str]) -> None:
    """Raise `ValueError` if the name of a text is that of a run or a preset, and suggest what was probably meant."""
    for name in names:
        if not name.strip() or name in BUILT_IN:
            continue
        try:
            path = find_run(name)
            is_run = (path / "run.json").is_file()
        except OSError:  # the name is too long, or the folder cannot be read: the error is named when the text is read
            continue
        if is_run:
            run = shlex.quote(str(path))
            hint = f"minigpt train --out {run} --resume resumes it, and --init {run} starts from its weights"
            raise ValueError(f"{name} is a run, not text: {hint}")
        if name in PRESETS and not path.exists():
            raise ValueError(f"no such file or folder: {name}; did you mean --preset {name}?")


def validation_split(run: RunFolder, say: Callable[[str], None] = lambda line: None) -> Split:
    """Return the validation split that a run was trained with.

    Raises `ValueError` if the run has no data of its own (it was imported), or if its data has changed.
    """
    if not run.config.exists():
        raise ValueError(f"{run.path} has no config.toml, so it has no validation text of its own: give a text with --data")
    settings = Settings(**read_settings(run.config))
    try:
        split = prepare_data(settings, say, run).valid
    except ValueError as error:
        remedy = "run the command in the folder where it was trained, or give a text with --data"
        raise ValueError(f"the validation text of {run.path} cannot be read ({error}): {remedy}") from None
    recorded = run.read_json("run.json").get("data")
    expected = recorded.get("valid") if isinstance(recorded, dict) else None
    if not isinstance(expected, dict) or expected.get("sha256") != split.sha256:
        raise ValueError(
            f"the data of {run.path} has changed, so its validation text is no longer there: give a text with --data"
        )
    return split


def reduce_context(settings: Settings, split: Split, say: Callable[[str], None]) -> Settings:
    """Reduce context_length to a power of two that is at most half the number of tokens, if the text is short."""
    longest = 1 << (split.n_tokens // 2).bit_length() - 1
    if settings.context_length <= longest or longest < MIN_CONTEXT_LENGTH:
        return settings
    say(
        f"The training text has only {split.n_tokens:,} tokens: context_length is {longest} instead of {settings.context_length}."
    )
    return replace(settings, context_length=longest)


def _tokenizer(settings: Settings, resumed: RunFolder | None) -> str | None:
    """Return the setting `tokenizer` or, by default, the path of the initial model's tokenizer."""
    if settings.tokenizer or not settings.init:
        return settings.tokenizer
    path = resumed.tokenizer if resumed else tokenizer_path(settings.init)
    if path is None:
        raise ValueError(f"{settings.init} has no tokenizer: give one with --tokenizer")
    return str(path)

"""Changes of settings: what a resumed run does differently, and from which step on.

run.json has an entry in "changes" for each step after which settings changed: {"step": 600, "settings": {"lr": [0.003, 0.02]}}
means that step 601 was the first one with the new value.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from minigpt.runs.folder import RunFolder
from minigpt.training.job import Job
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings

Change = dict[str, Any]
"An entry: the last step before the change, and the old and the new value of each setting."


def check_changes(run: RunFolder, content: Mapping[str, Any]) -> None:
    """Raise `ValueError` if "changes" in the content of run.json is invalid."""
    changes = content.get("changes", [])
    if not isinstance(changes, list) or not all(map(_is_change, changes)):
        expected = 'a list of {"step": number, "settings": {name: [old, new]}}'
        raise ValueError(f"{run.path / 'run.json'}: changes is {changes!r}, but must be {expected}")


def _is_change(value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get("step"), int) and isinstance(value.get("settings"), dict)):
        return False
    return all(isinstance(pair, list) and len(pair) == 2 for pair in value["settings"].values())


def changed_settings(job: Job, previous: Mapping[str, Any], step: int) -> list[Change]:
    """Return the changes of settings after the run is resumed at `step`, and print those from the next step on.

    The settings of the steps before are those in config.toml, and `previous` is the content of run.json.
    """
    before, after = Settings(**read_settings(job.run.config)), job.settings
    changes = update_changes(previous.get("changes", []), _effective(before), _effective(after), step)
    for entry in without_undone(changes):
        if entry["step"] == step:
            texts = [f"{name} {_shown(new)} instead of {_shown(old)}" for name, (old, new) in entry["settings"].items()]
            job.progress.print_line(f"From step {step + 1:,} on: {', '.join(texts)}.")
    return changes


def update_changes(changes: list[Change], before: Mapping[str, Any], after: Mapping[str, Any], step: int) -> list[Change]:
    """Return the changes of a run that continues after `step` with the settings `after`, where config.toml holds `before`.

    A change at `step` or later affected no step that is kept. One last entry replaces all of these: it compares `after` with the
    settings that the run had at `step`. A change that is undone there remains as an entry with two equal values.

    >>> update_changes([], {"lr": 0.1, "keep": 2}, {"lr": 0.2, "keep": 2}, 600)
    [{'step': 600, 'settings': {'lr': [0.1, 0.2]}}]
    >>> update_changes([{"step": 600, "settings": {"lr": [0.1, 0.2]}}], {"lr": 0.2}, {"lr": 0.2}, 500)
    [{'step': 500, 'settings': {'lr': [0.1, 0.2]}}]
    """
    replaced: dict[str, Any] = {}
    for change in reversed([change for change in changes if change["step"] >= step]):
        replaced |= {name: old for name, (old, _) in change["settings"].items()}
    at_step = {**before, **replaced}
    settings = {name: [at_step[name], value] for name, value in after.items() if name in replaced or at_step[name] != value}
    kept = [change for change in changes if change["step"] < step]
    return [*kept, {"step": step, "settings": settings}] if settings else kept


def without_undone(changes: list[Change]) -> list[Change]:
    """Return the changes without those that were undone."""
    entries = [{**c, "settings": {name: pair for name, pair in c["settings"].items() if pair[0] != pair[1]}} for c in changes]
    return [entry for entry in entries if entry["settings"]]


def write_settings(job: Job, metadata: dict[str, Any], changes: list[Change]) -> None:
    """Write run.json with the changes, tokenizer.json and config.toml.

    If the run is killed in between, `update_changes` finds the settings at the step from which it was resumed: those that differ
    from config.toml are in run.json, which is written before. Changes that were undone are removed from run.json at the end.
    """

    def write_run_json(changes: list[Change]) -> None:
        job.run.write_json("run.json", metadata | ({"changes": changes} if changes else {}))

    write_run_json(changes)
    job.data.tokenizer.save(job.run.tokenizer)
    job.settings.save(job.run.config)
    if (remaining := without_undone(changes)) != changes:
        write_run_json(remaining)


def _effective(settings: Settings) -> dict[str, Any]:
    """Return the settings as in JSON, with the values that 0 stands for in sizes of the model."""
    values = {**asdict(settings), **asdict(settings.model(settings.vocab_size))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if value is None:
        return "the default"
    return f"{value:,}" if isinstance(value, int) else repr(value)

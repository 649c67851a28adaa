"""`replay` and `influence`: the steps of a run again, as they were, or without one of its documents."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import content

from minigpt import load
from minigpt.api.replay import influence, replay
from minigpt.data.leave_out import Document, without
from minigpt.runs.checkpoint import checkpoints
from minigpt.runs.folder import RunFolder
from minigpt.training import trainer
from minigpt.training.replay import Replay

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """A run with checkpoints of the steps 9 and 12, and maybe of an earlier one. Tests must not change it."""
    path = tmp_path_factory.mktemp("replay") / "run"
    train_tiny(path, steps=12, checkpoint_every=3, dropout=0.1)
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def weights(where: Path, step: int | None = None) -> np.ndarray:
    return np.array(load(where, step=step)[0].parameters.flat)


# ---------------------------------------------------------------------- replay


@pytest.mark.parametrize("step", [0, 1, 5, 7, 11, 12])
def test_every_state_has_the_bits_of_the_run(run: Path, copy: Path, train_tiny: TrainTiny, tmp_path: Path, step: int) -> None:
    shutil.rmtree(copy / "snapshots")
    assert replay(copy, step) == [copy / "snapshots" / f"step-{step:06d}"]
    train_tiny(tmp_path / "every", steps=12, checkpoint_every=1, keep=12, dropout=0.1)
    if step:
        np.testing.assert_array_equal(weights(copy, step), weights(tmp_path / "every" / "checkpoints" / f"step-{step:06d}"))
    else:
        np.testing.assert_array_equal(weights(copy, 0), weights(run, 0))


def test_out_receives_the_whole_state(copy: Path, train_tiny: TrainTiny, tmp_path: Path) -> None:
    assert replay(copy, 7, out=tmp_path / "seven") == [tmp_path / "seven"]
    train_tiny(tmp_path / "every", steps=12, checkpoint_every=1, keep=12, dropout=0.1)
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [folder / "checkpoints" / "step-000007" / name for folder in (tmp_path / "seven", tmp_path / "every")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not (copy / "snapshots" / "step-000007").exists()
    info = json.loads((tmp_path / "seven" / "run.json").read_text(encoding="utf-8"))
    assert info["replayed_from"] == str(copy) and info["step"] == 7
    assert load(tmp_path / "seven")[1] is not None


def test_a_damaged_checkpoint_is_not_used(copy: Path) -> None:
    for checkpoint in checkpoints(RunFolder(copy))[:-1]:
        (checkpoint / "optimizer.safetensors").write_bytes(b"")
    expected = weights(copy, 8)
    shutil.rmtree(copy / "snapshots" / "step-000008")
    replay(copy, 8)
    np.testing.assert_array_equal(weights(copy, 8), expected)


def test_other_bits_are_noticed(copy: Path) -> None:
    """As on a machine with another processor: the loss, or the weights of a snapshot, are not those of the run."""
    lines = (copy / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[1])
    record["loss"] = math.nextafter(record["loss"], 9)
    (copy / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(record), *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"step 2 of .*run cannot be repeated bit for bit here: the loss is .*, and that of the run"
    ):
        replay(copy, 5)
    shutil.rmtree(copy / "snapshots/step-000001")
    shutil.copytree(copy / "snapshots/step-000000", copy / "snapshots/step-000001")
    with pytest.raises(ValueError, match=r"step 1 of .* here: the weights are not those of the snapshot"):
        replay(copy, 1)


def test_steps_before_a_change_of_settings_are_refused(copy: Path, train_tiny: TrainTiny) -> None:
    train_tiny(copy, steps=14, checkpoint_every=3, dropout=0.1, lr=0.001, resume=True)
    with pytest.raises(ValueError, match=r"the steps of .* up to 12 cannot be repeated: its settings \(lr, steps\) were changed"):
        replay(copy, 5)
    replay(copy, 13)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": 13}, "step is 13, but must be from 0 to 12, the last step that the run has completed"),
        ({"steps": -1}, "step is -1, but must be from 0 to 12"),
        ({"steps": 3, "without_story": -1}, "without_story is -1, but must be from 0 to "),
        ({"steps": 3, "without_story": 10**6}, "without_story is 1,000,000, but must be from 0 to "),
    ],
)
def test_steps_and_stories_that_do_not_exist(run: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay(run, **arguments)


def test_settings_that_do_not_change_the_weights(copy: Path, run: Path, train_tiny: TrainTiny) -> None:
    expected = weights(copy, 4)
    train_tiny(copy, steps=12, checkpoint_every=3, dropout=0.1, keep=5, sample_every=4, resume=True)
    shutil.rmtree(copy / "snapshots")
    replay(copy, 4)
    np.testing.assert_array_equal(weights(copy, 4), expected)


def test_a_snapshot_that_is_there_is_kept_and_a_damaged_one_is_replaced(copy: Path) -> None:
    model = copy / "snapshots" / "step-000004" / "model.safetensors"
    before = model.stat().st_mtime_ns, model.read_bytes()
    replay(copy, 4)
    assert (model.stat().st_mtime_ns, model.read_bytes()) == before
    model.write_bytes(before[1][:-1] + bytes([before[1][-1] ^ 1]))
    replay(copy, 8)  # passes the damaged one without comparing it
    replay(copy, 4)
    assert model.read_bytes() == before[1]


def test_an_interrupted_call_can_be_repeated(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two states has been written when the call is interrupted in the middle of writing the second one."""
    document, steps = first_seen(copy, 4)
    original = RunFolder.create

    def interrupted(folder: RunFolder, *arguments: Any) -> None:
        original(folder, *arguments)
        if "@12" in folder.path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replay(copy, [steps[0], 12], without_story=document.number)
    monkeypatch.undo()
    paths = replay(copy, [steps[0], 12], without_story=document.number)
    assert [path.name for path in paths] == [f"run@{step}-without-{document.number}" for step in (steps[0], 12)]
    assert all(load(path)[0].num_parameters() for path in paths)
    assert not list(copy.parent.glob(".run@*"))


def test_a_state_is_not_a_run(copy: Path) -> None:
    with pytest.raises(ValueError, match="run@4 is the state of a run at one step: give the run without @4"):
        replay(copy.parent / "run@4", 3)


def test_several_steps_at_once(copy: Path) -> None:
    expected = [weights(copy, step) for step in (2, 8)]
    shutil.rmtree(copy / "snapshots")
    assert [path.name for path in replay(copy, [8, 2, 8])] == ["step-000002", "step-000008"]
    np.testing.assert_array_equal([weights(copy, step) for step in (2, 8)], expected)
    with pytest.raises(ValueError, match="there are 2 steps, but there must be exactly one"):
        replay(copy, [2, 8], out=copy / "out")
    with pytest.raises(ValueError, match="there are 0 steps, but there must be at least one"):
        replay(copy, [])


def test_several_steps_without_a_document(copy: Path, tmp_path: Path) -> None:
    document, steps = first_seen(copy, 4)
    paths = replay(copy, [steps[0] - 1, 12], without_story=document.number)
    (alone,) = replay(copy, 12, without_story=document.number, out=tmp_path / "alone")
    np.testing.assert_array_equal(weights(paths[1]), weights(alone))
    assert (weights(paths[0]) != weights(alone)).any()


def test_out_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious", encoding="utf-8")
    with pytest.raises(ValueError, match="mine already exists: delete it, or choose another folder with --out"):
        replay(run, 3, out=tmp_path / "mine")
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "precious"


def test_a_run_that_was_imported_or_had_ranks_or_other_data(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the folder of a run"):
        replay(tmp_path, 3)
    replay(copy, 3, out=tmp_path / "three")
    with pytest.raises(ValueError, match=r"has no config.toml, so its steps cannot be repeated"):
        replay(tmp_path / "three", 3)
    content = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    (copy / "run.json").write_text(json.dumps({**content, "machine": {"ranks": 2}}), encoding="utf-8")
    with pytest.raises(ValueError, match="was trained on 2 MPI ranks"):
        replay(copy, 3)
    data = {**content["data"], "train": {**content["data"]["train"], "sha256": "0"}}
    (copy / "run.json").write_text(json.dumps({**content, "data": data}), encoding="utf-8")
    with pytest.raises(ValueError, match="has changed, so its steps cannot be repeated"):
        replay(copy, 3)
    config = (copy / "config.toml").read_text(encoding="utf-8")
    (copy / "config.toml").write_text(config.replace("little.txt", "missing.txt"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot be read .*: run the command where it was trained"):
        replay(copy, 3)


# ---------------------------------------------------------- without a document


def first_seen(run: Path, later_than: int = 0) -> tuple[Document, list[int]]:
    """Return a document that was seen, for the first time after a step, and its steps."""
    with Replay(RunFolder(run)) as past:
        stories = past.documents()
        seen = past.steps_of_documents(stories, 12)
    number = next(n for n in sorted(seen) if seen[n][0] > later_than and seen[n][-1] < 12)
    return stories[number], seen[number]


@pytest.mark.parametrize("later_than", [0, 4])
def test_without_a_document_the_run_is_one_that_never_saw_it(
    copy: Path, tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch, later_than: int
) -> None:
    """As a training from the start whose batches are made from the text without the document."""
    document, _ = first_seen(copy, later_than)
    (path,) = replay(copy, 12, without_story=document.number)
    assert path == copy.with_name(f"run@12-without-{document.number}")
    original = trainer.batch
    monkeypatch.setattr(trainer, "batch", lambda split, *more: original(without(split, document), *more))
    train_tiny(tmp_path / "never", steps=12, checkpoint_every=3, dropout=0.1)
    np.testing.assert_array_equal(weights(path), weights(tmp_path / "never"))
    assert (weights(path) != weights(copy)).any()
    assert json.loads((path / "run.json").read_text(encoding="utf-8"))["without_story"] == document.number


def test_a_document_that_was_not_seen_changes_nothing(run: Path, tmp_path: Path) -> None:
    document, steps = first_seen(run, 4)
    (path,) = replay(run, steps[0] - 1, without_story=document.number, out=tmp_path / "out")
    with Replay(RunFolder(run)) as past:
        past.start_before(0)
        past.advance(steps[0] - 1)
        np.testing.assert_array_equal(weights(path), past.model.parameters.flat)


def test_influence_is_the_difference_of_the_two_trainings(copy: Path, tmp_path: Path) -> None:
    text, calls = "Tom saw a kite.", []
    bits, results = influence(copy, text, stories=3, on_step=lambda done, total: calls.append((done, total)))

    def cost(where: Path) -> float:
        model, tokenizer = load(where)
        assert tokenizer is not None
        ids = [tokenizer.begin_of_text, *tokenizer.encode(text)]
        return float(np.nansum(model.trace([ids[:-1]], [ids[1:]]).surprise()))

    assert bits == pytest.approx(cost(copy), rel=1e-6)
    assert len(results) == 3 and [r.bits for r in results] == sorted((r.bits for r in results), reverse=True)
    assert calls[-1][0] == calls[-1][1] == len(calls)
    for result in results:
        (path,) = replay(copy, 12, without_story=result.story)
        assert result.bits == pytest.approx(cost(path) - bits, abs=1e-5)
        assert "saw a" in result.text


def test_similar_stories_are_those_that_share_rare_sequences(copy: Path) -> None:
    text = influence(copy, "Zoë saw a bun.", stories=1)[1][0].text
    assert "Zoë saw a bun." in text
    chosen = [{r.story for r in influence(copy, "Zoë saw a bun.", stories=3, random=random)[1]} for random in (True, True, False)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_run_is_not_changed(copy: Path) -> None:
    before = content(copy)
    influence(copy, "Tom saw a kite.", stories=1)
    assert content(copy) == before


@pytest.mark.parametrize(
    "text, stories, message",
    [
        ("", 3, "the text is empty"),
        ("x" * 99, 3, "the text has 99 tokens, but the model's context_length is 16"),
        ("Tom", 0, "stories is 0, but must be at least 1"),
    ],
)
def test_invalid_arguments_of_influence(run: Path, text: str, stories: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        influence(run, text, stories=stories)


# ------------------------------------------------------------------- commands


def test_the_command_replay(copy: Path, command: Command) -> None:
    code, output, error = command("replay", copy, "--step", 7)
    assert (code, output) == (0, f"minigpt sample {copy}@7\n") and error.startswith("Repeating the steps ")
    assert command("sample", f"{copy}@7", "--max-new-tokens", 3)[0] == 0
    code, output, _ = command("replay", copy, "--step", 7, "--without-story", 1)
    assert (code, output) == (0, f"minigpt sample {copy}@7-without-1\n")
    assert command("replay", copy, "--step", 7, "--without-story", 1)[:2] == (0, output)  # it is there already
    code, _, error = command("replay", copy, "--step", 6, "--without-story", 1, "--out", f"{copy}@7-without-1")
    assert code == 2 and "already exists: delete it, or choose another folder with --out" in error
    code, _, error = command("replay", copy)
    assert code == 2 and "--step" in error


def test_the_command_influence(copy: Path, command: Command) -> None:
    code, output, _ = command("influence", copy, "--text", "Tom saw a kite.", "--stories", 2)
    assert code == 0 and output.startswith("The text costs ")
    assert output.splitlines()[2].split()[0] == "bits" and len(output.splitlines()) == 5
    code, output, _ = command("influence", copy, "--text", "Tom saw a kite.", "--stories", 2, "--json")
    found = json.loads(output)
    assert code == 0 and len(found["stories"]) == 2 and set(found["stories"][0]) == {"story", "steps", "bits", "text"}

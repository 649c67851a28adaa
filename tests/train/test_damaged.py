"""Damaged files: of a damaged checkpoint the one before it is used; changed data and a changed tokenizer are refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import checkpoint_names, content, interrupted_at, outcome, shorten_samples

from minigpt import GPT, ModelConfig, load
from minigpt.np.parameters import Moments
from minigpt.runs.checkpoint import TrainingState, checkpoints, prune_checkpoints, save
from minigpt.runs.folder import RunFolder

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
SETTINGS: dict[str, Any] = {"dropout": 0.2, "threads": 1, "eval_every": 3, "checkpoint_every": 2, "keep": 3, "sample_every": 3}
NEWEST, BEFORE = "step-000006", "step-000004"
FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"]


def flip(path: Path, index: int) -> None:
    """Flip one bit of the byte at `index`."""
    data = bytearray(path.read_bytes())
    data[index] ^= 0x10
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "first byte": lambda path: flip(path, 0),
    "in the header": lambda path: flip(path, 20),
    "in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "last byte": lambda path: flip(path, -1),
    "empty": lambda path: os.truncate(path, 0),
    "deleted": Path.unlink,
    "from another checkpoint": lambda path: shutil.copy(path.parent.parent / BEFORE / path.name, path),
}
EACH_DAMAGE = [pytest.param(name, damage, id=f"{name} {damage}") for name in FILES for damage in DAMAGES]


pytestmark = pytest.mark.usefixtures("short_samples")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Path:
    """The folder of two runs: `undisturbed`, and `stopped` after six of eight steps. Do not modify them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        shorten_samples(patch)
        train_tiny(folder / "undisturbed", **SETTINGS)
        with interrupted_at(6):
            train_tiny(folder / "stopped", **SETTINGS)
    assert checkpoint_names(folder / "stopped") == ["step-000003", BEFORE, NEWEST]
    return folder


@pytest.fixture
def stopped(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run that was stopped after six of eight steps."""
    return shutil.copytree(runs / "stopped", tmp_path / "run")


# ------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("name, damage", EACH_DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_resumed(
    stopped: Path, runs: Path, train_tiny: TrainTiny, name: str, damage: str
) -> None:
    DAMAGES[damage](stopped / "checkpoints" / NEWEST / name)
    damaged = content(stopped / "checkpoints" / NEWEST)
    with pytest.warns(UserWarning, match=rf"{NEWEST}/.*{name}.*; trying the checkpoint before it"):
        printed = train_tiny(stopped, resume=True, **SETTINGS)
    assert "Resuming after step 4." in printed
    assert content(stopped / "checkpoints" / f"damaged-{NEWEST}") == damaged
    assert outcome(stopped) == outcome(runs / "undisturbed")
    assert checkpoint_names(stopped) == [f"damaged-{NEWEST}", *checkpoint_names(runs / "undisturbed")]


def test_of_two_damaged_checkpoints_both_are_set_aside(stopped: Path, runs: Path, train_tiny: TrainTiny) -> None:
    flip(stopped / "checkpoints" / NEWEST / "model.safetensors", 500)
    flip(stopped / "checkpoints" / BEFORE / "optimizer.safetensors", 500)
    with pytest.warns(UserWarning) as warned:
        train_tiny(stopped, resume=True, **SETTINGS)
    assert [NEWEST in str(warned[0].message), BEFORE in str(warned[1].message), len(warned)] == [True, True, 2]
    assert outcome(stopped) == outcome(runs / "undisturbed")
    assert checkpoint_names(stopped) == [f"damaged-{BEFORE}", f"damaged-{NEWEST}", *checkpoint_names(runs / "undisturbed")]


def test_an_empty_checkpoint_folder_is_set_aside(stopped: Path, runs: Path, train_tiny: TrainTiny) -> None:
    for path in (stopped / "checkpoints" / NEWEST).iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match=NEWEST):
        train_tiny(stopped, resume=True, **SETTINGS)
    assert outcome(stopped) == outcome(runs / "undisturbed")


def test_the_command_line_warns_and_resumes(stopped: Path, runs: Path, command: Command) -> None:
    flip(stopped / "checkpoints" / NEWEST / "optimizer.safetensors", -1)
    code, _, err = command("train", "--out", stopped, "--resume")
    assert code == 0
    message = f"{stopped / 'checkpoints' / NEWEST / 'optimizer.safetensors'} is damaged: its checksum does not match SHA256SUMS"
    assert err == f"minigpt: warning: {message}; trying the checkpoint before it\n"
    assert outcome(stopped) == outcome(runs / "undisturbed")


@pytest.mark.parametrize("name", FILES[:3])
def test_without_an_intact_checkpoint_nothing_is_changed(stopped: Path, command: Command, name: str) -> None:
    for checkpoint in checkpoints(RunFolder(stopped)):
        flip(checkpoint / name, 5)
    before = content(stopped)
    code, _, err = command("train", "--out", stopped, "--resume")
    *warnings, error = err.splitlines()
    assert (code, error) == (2, f"minigpt: none of the checkpoints in {stopped / 'checkpoints'} is intact")
    assert len(warnings) == 3 and all(line.startswith("minigpt: warning: ") for line in warnings)
    assert content(stopped) == before


@pytest.mark.parametrize("name", ["model.safetensors", "SHA256SUMS"])
def test_loading_a_run_warns_and_uses_the_checkpoint_before(stopped: Path, command: Command, name: str) -> None:
    expected = load(stopped / "checkpoints" / BEFORE)[0].parameters.flat
    flip(stopped / "checkpoints" / NEWEST / name, 30)
    before = content(stopped)
    with pytest.warns(UserWarning, match=f"{NEWEST}/.*is damaged: .*; trying the checkpoint before it"):
        model, tokenizer = load(stopped)
    assert tokenizer is not None
    np.testing.assert_array_equal(model.parameters.flat, expected)
    code, _, err = command("sample", stopped, "--max-new-tokens", 2)
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"minigpt: warning: {stopped / 'checkpoints' / NEWEST}")
    assert content(stopped) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_that_was_named_is_refused(stopped: Path, command: Command, damage: str) -> None:
    checkpoint = stopped / "checkpoints" / NEWEST
    DAMAGES[damage](checkpoint / "model.safetensors")
    code, out, err = command("sample", checkpoint)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(checkpoint) in err and "warning" not in err


def test_loading_weights_does_not_need_the_moments(stopped: Path, recwarn: pytest.WarningsRecorder) -> None:
    expected = load(stopped)[0].parameters.flat
    flip(stopped / "checkpoints" / NEWEST / "optimizer.safetensors", 30)
    np.testing.assert_array_equal(load(stopped)[0].parameters.flat, expected)
    assert not recwarn.list


# -------------------------------------------------------------------- keep


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., RunFolder]:
    """`saved(2.0, 1.0)` returns a run with a checkpoint for each validation loss."""

    def make(*losses: float) -> RunFolder:
        run = RunFolder(tmp_path / "saved")
        model = GPT(ModelConfig(vocab_size=7, context_length=4, d_model=4, n_layers=1, n_heads=1))
        for step, loss in enumerate(losses, start=1):
            moments = Moments(model.parameters.zeros_like(), model.parameters.zeros_like())
            save(run, model, moments, TrainingState(step, val_loss=loss))
        return run

    return make


@pytest.mark.parametrize("keep, steps", [(1, [2, 6]), (2, [2, 5, 6]), (5, [2, 3, 4, 5, 6]), (9, [1, 2, 3, 4, 5, 6])])
def test_the_newest_and_the_best_are_kept(saved: Callable[..., RunFolder], keep: int, steps: list[int]) -> None:
    run = saved(3.0, 1.0, 2.0, 2.5, 2.5, 2.5)
    prune_checkpoints(run, keep)
    assert checkpoint_names(run.path) == [f"step-{step:06d}" for step in steps]


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


BROKEN = {name: DAMAGES[name] for name in ("truncated", "first byte", "empty", "deleted")}
BROKEN |= {text: write(text) for text in ("[1]", "{}{", '{"val_loss": "low"}', '{"step": null}')}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_checkpoint_with_a_damaged_state_is_not_the_best(
    saved: Callable[..., RunFolder], damage: Callable[[Path], object]
) -> None:
    run = saved(3.0, 1.0, 2.0, 2.5, 2.5)
    state = run.checkpoints / "step-000002" / "state.json"
    damage(state)
    prune_checkpoints(run, keep=1)
    assert checkpoint_names(run.path) == ["step-000003", "step-000005"]


LOWER = '{"step": 2, "elapsed_s": 0.0, "val_loss": 0.5, "best_val_loss": null, "tokens": 0, "skipped": 0}'


@pytest.mark.parametrize(
    "name, damage",
    [
        ("model.safetensors", DAMAGES["truncated"]),
        ("model.safetensors", DAMAGES["in the middle"]),
        ("model.safetensors", DAMAGES["deleted"]),
        ("state.json", write(LOWER)),
    ],
    ids=["truncated weights", "changed weights", "no weights", "another loss"],
)
def test_a_damaged_checkpoint_is_not_the_best(
    saved: Callable[..., RunFolder], name: str, damage: Callable[[Path], object]
) -> None:
    run = saved(3.0, 1.0, 2.0, 2.5, 2.5)
    damage(run.checkpoints / "step-000002" / name)
    prune_checkpoints(run, keep=1)
    assert checkpoint_names(run.path) == ["step-000003", "step-000005"]


def test_old_damaged_checkpoints_are_deleted_like_others(stopped: Path, runs: Path, train_tiny: TrainTiny) -> None:
    for name in FILES:
        os.truncate(stopped / "checkpoints" / "step-000003" / name, 1)
    train_tiny(stopped, resume=True, **SETTINGS)
    assert checkpoint_names(stopped) == checkpoint_names(runs / "undisturbed")
    assert outcome(stopped) == outcome(runs / "undisturbed")


def test_a_checkpoint_that_was_set_aside_is_never_the_best_and_never_deleted(saved: Callable[..., RunFolder]) -> None:
    run = saved(3.0, 1.0, 2.0, 2.5, 2.5)
    (run.checkpoints / "step-000002").rename(run.checkpoints / "damaged-step-000002")
    prune_checkpoints(run, keep=1)
    assert checkpoint_names(run.path) == ["damaged-step-000002", "step-000003", "step-000005"]


# -------------------------------------------------------------------- data


@pytest.fixture
def own(tmp_path: Path, text_file: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with text.txt and valid.txt, a cache, and a run on these texts that was stopped after four steps."""
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    for name in ("text.txt", "valid.txt"):
        shutil.copy(text_file, tmp_path / name)
    texts = {"data": (str(tmp_path / "text.txt"),), "val_data": str(tmp_path / "valid.txt")}
    with interrupted_at(4):
        train_tiny(tmp_path / "run", **texts, **SETTINGS)
    return tmp_path


def refused(own: Path, command: Command) -> str:
    """Return the error of `--resume`, which must leave the run unchanged."""
    before = content(own / "run")
    code, _, err = command("train", "--out", own / "run", "--resume")
    assert (code, err.count("\n")) == (2, 1), err
    assert content(own / "run") == before
    return err


@pytest.mark.parametrize("split", ["train.bin", "valid.bin"])
@pytest.mark.parametrize("damage", ["first byte", "in the middle", "last byte", "truncated", "empty", "deleted"])
def test_a_token_file_that_has_changed_is_refused(own: Path, command: Command, split: str, damage: str) -> None:
    [prepared] = (own / "cache").iterdir()
    DAMAGES[damage](prepared / split)
    assert str(prepared / split) in refused(own, command)


def test_token_files_that_are_prepared_again_are_accepted(own: Path, command: Command) -> None:
    shutil.rmtree(own / "cache")
    assert command("train", "--out", own / "run", "--resume")[0] == 0


def edit(path: Path, text: bytes) -> None:
    """Replace a text by another of the same length, with another modification time."""
    assert len(text) == path.stat().st_size and text != path.read_bytes()
    time = path.stat().st_mtime_ns + 10**9
    path.write_bytes(text)
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("name", ["text.txt", "valid.txt"])
def test_a_text_that_was_edited_is_refused_even_at_the_same_length(own: Path, command: Command, name: str) -> None:
    edit(own / name, (own / name).read_bytes().replace(b"kite", b"kilt"))
    assert "was trained on other data" in refused(own, command)


def test_a_text_that_was_edited_and_restored_is_accepted(own: Path, command: Command) -> None:
    text = (own / "text.txt").read_bytes()
    edit(own / "text.txt", text.replace(b"kite", b"kilt"))
    edit(own / "text.txt", text)
    assert command("train", "--out", own / "run", "--resume")[0] == 0


@pytest.mark.parametrize(
    "damage",
    [*(DAMAGES[name] for name in ("truncated", "empty", "deleted")), write("{}")],
    ids=["truncated", "empty", "deleted", "{}"],
)
def test_a_tokenizer_of_the_run_that_cannot_be_read_is_refused(
    own: Path, command: Command, damage: Callable[[Path], object]
) -> None:
    damage(own / "run" / "tokenizer.json")
    assert str(own / "run" / "tokenizer.json") in refused(own, command)


def test_a_tokenizer_of_the_run_that_has_changed_is_refused(own: Path, command: Command) -> None:
    path = own / "run" / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"a": 97', '"a": 98').replace('"b": 98', '"b": 97'), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    assert f"{path} is not the tokenizer of the current data" in refused(own, command)


@pytest.mark.parametrize("damage", ["empty", "deleted", "first byte"])
def test_a_run_without_a_readable_run_json_is_refused(own: Path, command: Command, damage: str) -> None:
    DAMAGES[damage](own / "run" / "run.json")
    assert "run.json cannot be read" in refused(own, command)

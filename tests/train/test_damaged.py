"""Damaged on the disk: a checkpoint is found out and the one before it used; data and tokenizer are found out and refused."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, cli, load
from minigpt.train.checkpoint import State, checkpoints, save, thin_out
from minigpt.train.folder import RunFolder
from minigpt.train.loop import Trainer
from minigpt.train.optimizer import Moments

TrainTiny = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
SETTINGS: dict[str, Any] = {"dropout": 0.2, "threads": 1, "eval_every": 3, "checkpoint_every": 2, "keep": 3, "sample_every": 3}
TIMES = ("tokens_per_s", "elapsed_s")
NEWEST, BEFORE = "step-000006", "step-000004"
FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"]


def flip(path: Path, where: int) -> None:
    """Turn one bit of the byte at `where` over."""
    content = bytearray(path.read_bytes())
    content[where] ^= 0x10
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "first byte": lambda path: flip(path, 0),
    "in the header": lambda path: flip(path, 20),
    "in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "last byte": lambda path: flip(path, -1),
    "empty": lambda path: os.truncate(path, 0),
    "deleted": Path.unlink,
    "of another checkpoint": lambda path: shutil.copy(path.parent.parent / BEFORE / path.name, path),
}
EACH_DAMAGE = [pytest.param(name, damage, id=f"{name} {damage}") for name in FILES for damage in DAMAGES]


@pytest.fixture(autouse=True)
def short_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Trainer.tell
    monkeypatch.setattr(Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> Iterator[Path]:
    """The folder of two runs, to be read: `undisturbed`, and `stopped` after six of eight steps."""
    folder = tmp_path_factory.mktemp("runs")
    step, tell = Trainer.step, Trainer.tell

    def interrupted(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step + 1 == 6 and trainer.run.path.name == "stopped":
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        patch.setattr(Trainer, "tell", lambda trainer, prompt, seed: tell(trainer, prompt, seed, max_new_tokens=4))
        for name in ("undisturbed", "stopped"):
            train_tiny(folder / name, **SETTINGS)
    assert kept(folder / "stopped") == ["step-000003", BEFORE, NEWEST]
    yield folder


@pytest.fixture
def stopped(runs: Path, tmp_path: Path) -> Path:
    """A run that was stopped after six of eight steps, to do anything with."""
    return shutil.copytree(runs / "stopped", tmp_path / "run")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("sample", run, ...)`: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


def outcome(run: Path) -> dict[str, Any]:
    """What has to be the same, bit for bit."""
    newest = checkpoints(RunFolder(run))[-1]
    lines = RunFolder(run).records("metrics.jsonl")
    return {
        "newest": newest.name,
        "weights": (newest / "model.safetensors").read_bytes(),
        "moments": (newest / "optimizer.safetensors").read_bytes(),
        "metrics": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "samples": RunFolder(run).records("samples.jsonl"),
    }


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder in it."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


# ------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("name, damage", EACH_DAMAGE)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_goes_on(
    stopped: Path, runs: Path, train_tiny: TrainTiny, name: str, damage: str
) -> None:
    DAMAGES[damage](stopped / "checkpoints" / NEWEST / name)
    damaged = content(stopped / "checkpoints" / NEWEST)
    with pytest.warns(UserWarning, match=rf"{NEWEST}/.*{name}.*; trying the checkpoint before it"):
        printed = train_tiny(stopped, resume=True, **SETTINGS)
    assert "Going on after step 4." in printed
    assert content(stopped / "checkpoints" / f"damaged-{NEWEST}") == damaged
    assert outcome(stopped) == outcome(runs / "undisturbed")
    assert kept(stopped) == [f"damaged-{NEWEST}", *kept(runs / "undisturbed")]


def test_of_two_damaged_checkpoints_both_are_put_aside(stopped: Path, runs: Path, train_tiny: TrainTiny) -> None:
    flip(stopped / "checkpoints" / NEWEST / "model.safetensors", 500)
    flip(stopped / "checkpoints" / BEFORE / "optimizer.safetensors", 500)
    with pytest.warns(UserWarning) as warned:
        train_tiny(stopped, resume=True, **SETTINGS)
    assert [NEWEST in str(warned[0].message), BEFORE in str(warned[1].message), len(warned)] == [True, True, 2]
    assert outcome(stopped) == outcome(runs / "undisturbed")
    assert kept(stopped) == [f"damaged-{BEFORE}", f"damaged-{NEWEST}", *kept(runs / "undisturbed")]


def test_a_checkpoint_of_which_nothing_is_left_is_put_aside(stopped: Path, runs: Path, train_tiny: TrainTiny) -> None:
    for path in (stopped / "checkpoints" / NEWEST).iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match=NEWEST):
        train_tiny(stopped, resume=True, **SETTINGS)
    assert outcome(stopped) == outcome(runs / "undisturbed")


def test_the_command_line_warns_and_goes_on(stopped: Path, runs: Path, command: Command) -> None:
    flip(stopped / "checkpoints" / NEWEST / "optimizer.safetensors", -1)
    code, _, err = command("train", "--out", stopped, "--resume")
    assert code == 0
    what = f"{stopped / 'checkpoints' / NEWEST / 'optimizer.safetensors'} is damaged: it has not the checksum in SHA256SUMS"
    assert err == f"minigpt: warning: {what}; trying the checkpoint before it\n"
    assert outcome(stopped) == outcome(runs / "undisturbed")


@pytest.mark.parametrize("name", FILES[:3])
def test_where_no_checkpoint_is_whole_nothing_is_done(stopped: Path, command: Command, name: str) -> None:
    for checkpoint in checkpoints(RunFolder(stopped)):
        flip(checkpoint / name, 5)
    before = content(stopped)
    code, _, err = command("train", "--out", stopped, "--resume")
    *warnings, error = err.splitlines()
    assert (code, error) == (2, f"minigpt: none of the checkpoints in {stopped / 'checkpoints'} is whole")
    assert len(warnings) == 3 and all(line.startswith("minigpt: warning: ") for line in warnings)
    assert content(stopped) == before


@pytest.mark.parametrize("name", ["model.safetensors", "SHA256SUMS"])
def test_who_only_reads_is_warned_and_gets_the_checkpoint_before(stopped: Path, command: Command, name: str) -> None:
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
def test_a_damaged_checkpoint_that_is_asked_for_by_name_is_refused(stopped: Path, command: Command, damage: str) -> None:
    checkpoint = stopped / "checkpoints" / NEWEST
    DAMAGES[damage](checkpoint / "model.safetensors")
    code, out, err = command("sample", checkpoint)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(checkpoint) in err and "warning" not in err


def test_what_goes_on_with_weights_alone_needs_no_moments(stopped: Path, recwarn: pytest.WarningsRecorder) -> None:
    expected = load(stopped)[0].parameters.flat
    flip(stopped / "checkpoints" / NEWEST / "optimizer.safetensors", 30)
    np.testing.assert_array_equal(load(stopped)[0].parameters.flat, expected)
    assert not recwarn.list


# -------------------------------------------------------------------- keep


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., RunFolder]:
    """`saved(2.0, 1.0)`: a run with a checkpoint for each validation loss."""

    def make(*losses: float) -> RunFolder:
        run = RunFolder(tmp_path / "saved")
        model = GPT(ModelConfig(vocab_size=7, context_length=4, d_model=4, n_layers=1, n_heads=1))
        for step, loss in enumerate(losses, start=1):
            moments = Moments(model.parameters.like(), model.parameters.like())
            save(run, model, moments, State(step, val_loss=loss))
        return run

    return make


@pytest.mark.parametrize("keep, steps", [(1, [2, 6]), (2, [2, 5, 6]), (5, [2, 3, 4, 5, 6]), (9, [1, 2, 3, 4, 5, 6])])
def test_the_newest_are_kept_and_the_best(saved: Callable[..., RunFolder], keep: int, steps: list[int]) -> None:
    run = saved(3.0, 1.0, 2.0, 2.5, 2.5, 2.5)
    thin_out(run, keep)
    assert kept(run.path) == [f"step-{step:06d}" for step in steps]


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
    thin_out(run, keep=1)
    assert kept(run.path) == ["step-000003", "step-000005"]


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
    thin_out(run, keep=1)
    assert kept(run.path) == ["step-000003", "step-000005"]


def test_old_checkpoints_that_are_damaged_are_deleted_as_others(stopped: Path, runs: Path, train_tiny: TrainTiny) -> None:
    for name in FILES:
        os.truncate(stopped / "checkpoints" / "step-000003" / name, 1)
    train_tiny(stopped, resume=True, **SETTINGS)
    assert kept(stopped) == kept(runs / "undisturbed")
    assert outcome(stopped) == outcome(runs / "undisturbed")


def test_what_was_put_aside_is_never_the_best_and_never_deleted(saved: Callable[..., RunFolder]) -> None:
    run = saved(3.0, 1.0, 2.0, 2.5, 2.5)
    (run.checkpoints / "step-000002").rename(run.checkpoints / "damaged-step-000002")
    thin_out(run, keep=1)
    assert kept(run.path) == ["damaged-step-000002", "step-000003", "step-000005"]


# -------------------------------------------------------------------- data


@pytest.fixture
def own(tmp_path: Path, text_file: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with text.txt and valid.txt, their cache, and a run on them that was stopped after four steps."""
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    step = Trainer.step

    def interrupted(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step + 1 == 4:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    for name in ("text.txt", "valid.txt"):
        shutil.copy(text_file, tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        texts = {"data": (str(tmp_path / "text.txt"),), "val_data": str(tmp_path / "valid.txt")}
        train_tiny(tmp_path / "run", **texts, **SETTINGS)
    return tmp_path


def refused(own: Path, command: Command) -> str:
    """What `--resume` says when it refuses, and changes nothing."""
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


def test_token_files_that_are_prepared_again_are_taken(own: Path, command: Command) -> None:
    shutil.rmtree(own / "cache")
    assert command("train", "--out", own / "run", "--resume")[0] == 0


def edit(path: Path, text: bytes) -> None:
    """Write other text of the same length, at another time."""
    assert len(text) == path.stat().st_size and text != path.read_bytes()
    time = path.stat().st_mtime_ns + 10**9
    path.write_bytes(text)
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("name", ["text.txt", "valid.txt"])
def test_a_text_that_was_edited_is_refused_though_its_length_is_the_same(own: Path, command: Command, name: str) -> None:
    edit(own / name, (own / name).read_bytes().replace(b"kite", b"kilt"))
    assert "was trained on other data" in refused(own, command)


def test_a_text_that_was_edited_and_edited_back_is_taken(own: Path, command: Command) -> None:
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
    assert f"{path} is not the tokenizer of the data" in refused(own, command)


@pytest.mark.parametrize("damage", ["empty", "deleted", "first byte"])
def test_a_run_that_does_not_know_its_data_any_more_is_refused(own: Path, command: Command, damage: str) -> None:
    DAMAGES[damage](own / "run" / "run.json")
    assert "run.json cannot be read" in refused(own, command)

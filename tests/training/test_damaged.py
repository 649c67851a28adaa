"""Damaged files: of a damaged checkpoint the one before it is used; changed data and a changed tokenizer are refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers.runs import checkpoint_names, content, differences, interrupted_at, metrics, outcome, shorten_samples

from minigpt import GPT, ModelConfig, load
from minigpt.data import splits
from minigpt.data.atomic import sha256
from minigpt.data.ranks import SingleProcess
from minigpt.np.parameters import Moments
from minigpt.runs.checkpoint import TrainingState, checkpoints, prune_checkpoints, save
from minigpt.runs.folder import RunFolder
from minigpt.training.parallel.mpi import MPIRanks
from minigpt.training.train import train_as_follower
from minigpt.training.trainer import Trainer

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


@contextmanager
def before_step(step: int, change: Callable[[], object]) -> Iterator[None]:
    """Call a function before that step of every training inside the block."""
    original = Trainer.step

    def changed(trainer: Trainer) -> dict[str, Any]:
        if trainer.state.step + 1 == step:
            change()
        return original(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", changed)
        yield


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


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json"])
def test_loading_weights_does_not_need_the_training_state(stopped: Path, recwarn: pytest.WarningsRecorder, name: str) -> None:
    expected = load(stopped)[0].parameters.flat
    flip(stopped / "checkpoints" / NEWEST / name, 1)
    np.testing.assert_array_equal(load(stopped)[0].parameters.flat, expected)
    assert not recwarn.list


# ---------------------------------------- folders that somebody has touched


@pytest.mark.filterwarnings("always")  # each command has its own process
def test_copies_beside_the_checkpoints_are_ignored_and_said_once(stopped: Path, runs: Path, command: Command) -> None:
    copies = {name: stopped / "checkpoints" / name for name in (f"{BEFORE}-backup", f"{NEWEST}.old")}
    for copy in copies.values():
        shutil.copytree(stopped / "checkpoints" / NEWEST, copy)
    names = ", ".join(copies)
    warning = f"{stopped / 'checkpoints'}: ignored {names}, because the name of a checkpoint is step- and six digits\n"
    before = content(stopped)
    evaluating, exporting = ["eval", "--data", stopped / "config.toml"], ["export", stopped.with_name("exported")]
    for words in (["info"], ["sample", "--max-new-tokens", 2], evaluating, exporting):
        code, _, err = command(words[0], stopped, *words[1:])
        assert (code, err) == (0, f"minigpt: warning: {warning}"), words
    assert content(stopped) == before
    code, _, err = command("train", "--out", stopped, "--resume")
    assert (code, err) == (0, f"minigpt: warning: {warning}")
    assert outcome(stopped) == outcome(runs / "undisturbed")
    for name, copy in copies.items():
        assert content(copy) == {Path(path).name: data for path, data in before.items() if f"/{name}/" in path}


def test_a_copy_under_the_name_of_another_step_is_passed_over(stopped: Path, runs: Path, command: Command) -> None:
    copied = shutil.copytree(stopped / "checkpoints" / BEFORE, stopped / "checkpoints" / "step-000099")
    before = content(copied)
    assert "step-000099 is of step 4, but its name is that of step 99; trying" in command("info", stopped)[2]
    code, out, _ = command("train", "--out", stopped, "--resume")
    assert code == 0 and "Resuming after step 6." in out
    assert content(copied.with_name("damaged-step-000099")) == before
    assert outcome(stopped) == outcome(runs / "undisturbed")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("name", ["step-000003", BEFORE, NEWEST])
def test_a_checkpoint_that_was_moved_to_another_disk_and_linked_is_used_and_kept(
    stopped: Path, tmp_path: Path, runs: Path, command: Command, name: str
) -> None:
    link = stopped / "checkpoints" / name
    link.rename(tmp_path / "other disk")
    link.symlink_to(tmp_path / "other disk", target_is_directory=True)
    before = content(tmp_path / "other disk")
    code, out, err = command("train", "--out", stopped, "--resume", "--keep", 1)
    assert (code, err) == (0, "") and "Resuming after step 6." in out
    assert outcome(stopped, without=("config",)) == outcome(runs / "undisturbed", without=("config",))
    assert link.is_symlink() and content(tmp_path / "other disk") == before


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


# ----------------------------------------------------------------- records


def test_after_a_power_failure_nul_bytes_do_not_prevent_a_resume(stopped: Path, runs: Path, command: Command) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (stopped / name).open("ab") as file:
            file.write(bytes(900) + b'"elapsed_s": 3}\n{"step": 9, "seed": 3}\n' + bytes(50) + b"\n")
    assert command("train", "--out", stopped, "--resume")[::2] == (0, "")
    assert outcome(stopped) == outcome(runs / "undisturbed")


def test_records_that_were_lost_are_named_and_the_training_goes_on(stopped: Path, runs: Path, command: Command) -> None:
    lines = (stopped / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_bytes(b"".join([lines[0], lines[2], bytes(80) + b"\n", lines[4], lines[4], lines[5]]))
    sample = (stopped / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0]
    invalid = json.dumps({**json.loads(sample), "seed": [1]})
    (stopped / "samples.jsonl").write_text("".join(f"{line}\n" for line in (sample, invalid, sample)), encoding="utf-8")
    before = content(stopped)
    code, _, err = command("train", "--out", stopped, "--resume")
    damaged = "unreadable lines, which were removed: {0} (damaged-{1} is a copy of the file). The training is not affected"
    assert (code, err.splitlines()) == (
        0,
        [
            f"minigpt: warning: {stopped / 'metrics.jsonl'}: steps without a record: 2, 4; steps with more than one record: 5; "
            f"{damaged.format(3, 'metrics.jsonl')}",
            f"minigpt: warning: {stopped / 'samples.jsonl'}: steps with more than one record: 0; "
            f"{damaged.format(2, 'samples.jsonl')}",
        ],
    )
    records = ("metrics", "samples")
    assert outcome(stopped, without=records) == outcome(runs / "undisturbed", without=records)
    assert [record["step"] for record in metrics(stopped)] == [1, 3, 5, 5, 6, 7, 8]
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (stopped / f"damaged-{name}").read_bytes() == before[name]


def test_a_sample_that_gets_an_invalid_seed_during_the_training_is_named(stopped: Path, command: Command) -> None:
    path = stopped / "samples.jsonl"
    with before_step(8, lambda: path.write_text('{"step": 3, "seed": [1]}\n', encoding="utf-8")):
        code, _, err = command("train", "--out", stopped, "--resume")
    assert (code, err) == (2, f"minigpt: {path}, line 1: seed is [1], but must be an integer\n")


# -------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def undisturbed(text_file: Path, tmp_path_factory: pytest.TempPathFactory, train_tiny: TrainTiny) -> dict[str, Any]:
    """The outcome of a run on the texts of `own`, without the paths of these."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        shorten_samples(patch)
        train_tiny(run, data=(str(text_file),), val_data=str(text_file), **SETTINGS)
    return outcome(run, without=("config",))


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


IN_USE = [("train.bin", damage) for damage in ("truncated", "empty", "first byte", "deleted")] + [("valid.bin", "truncated")]


@pytest.mark.parametrize("split, damage", IN_USE)
def test_a_token_file_that_changes_during_the_training_ends_it(
    own: Path, command: Command, undisturbed: dict[str, Any], split: str, damage: str
) -> None:
    [prepared] = (own / "cache").iterdir()
    with before_step(6, lambda: DAMAGES[damage](prepared / split)):
        code, _, err = command("train", "--out", own / "run", "--resume")
    problem, _, resume = err.partition(" To resume: ")
    assert (code, err.count("\n")) == (1, 1), err
    assert str(prepared / split) in problem
    assert problem.endswith(f"Training has stopped; the newest checkpoint is {own / 'run' / 'checkpoints' / 'step-000004'}.")
    assert resume == f"minigpt train --out {own / 'run'} --resume\n"
    shutil.rmtree(own / "cache")
    assert command("train", "--out", own / "run", "--resume")[0] == 0
    assert differences(own / "run", undisturbed) == []


@pytest.mark.parametrize("split", ["train.bin", "valid.bin"])
def test_a_change_that_the_disk_hides_is_found_before_the_last_checkpoint(
    own: Path, command: Command, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setattr(splits, "_state", lambda file: (0,))
    [prepared] = (own / "cache").iterdir()
    with before_step(5, lambda: flip(prepared / split, -1)):
        code, _, err = command("train", "--out", own / "run", "--resume")
    assert (code, err.count("\n")) == (1, 1), err
    assert f"{prepared / split} has changed since it was opened" in err
    assert "step-000008" not in checkpoint_names(own / "run")


def test_a_rank_with_another_token_file_is_refused(own: Path) -> None:
    [folder] = (own / "cache").iterdir()
    checksums = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["sha256"] for name in ("train", "valid")]
    job: Any = {"folder": str(folder), "settings": {"data": ["text.txt"]}, "model": {}, "state": {}}
    for i, name in enumerate(("train.bin", "valid.bin")):
        of_rank_0 = [checksum if i != j else "0" * 64 for j, checksum in enumerate(checksums)]
        with pytest.raises(ValueError, match=rf"{name} is not the file that rank 0 reads: all machines must see"):
            train_as_follower(cast(MPIRanks, SingleProcess()), checksums=of_rank_0, **job)


def test_data_that_was_moved_and_renamed_is_the_same_data(own: Path, command: Command, undisturbed: dict[str, Any]) -> None:
    (own / "attic").mkdir()
    (own / "text.txt").rename(own / "attic" / "novel.txt")
    (own / "valid.txt").rename(own / "attic" / "held out.txt")
    data = ["--data", own / "attic" / "novel.txt", "--val-data", own / "attic" / "held out.txt"]
    code, out, err = command("train", "--out", own / "run", "--resume", *data)
    assert (code, err) == (0, "") and "Data: novel.txt;" in out
    assert differences(own / "run", undisturbed) == []
    assert RunFolder(own / "run").read_json("run.json")["data"]["name"] == "novel.txt"


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


@pytest.mark.parametrize("command_line", [None, 5, ["minigpt", "train"]])
def test_a_run_json_without_the_command_is_refused(own: Path, command: Command, command_line: object) -> None:
    run = RunFolder(own / "run")
    about = run.read_json("run.json")
    del about["command"]
    run.write_json("run.json", about | ({"command": command_line} if command_line else {}))
    assert f"{own / 'run' / 'run.json'}: command is {command_line!r}, but must be a string" in refused(own, command)


@pytest.mark.parametrize("step", ["null", '"6"', "-6"])
def test_a_checkpoint_with_an_invalid_step_is_set_aside(stopped: Path, runs: Path, command: Command, step: str) -> None:
    checkpoint = stopped / "checkpoints" / NEWEST
    state = (checkpoint / "state.json").read_text(encoding="utf-8")
    (checkpoint / "state.json").write_text(state.replace('"step": 6', f'"step": {step}'), encoding="utf-8")
    sums = "".join(f"{sha256(checkpoint / name)}  {name}\n" for name in FILES[:3])
    (checkpoint / "SHA256SUMS").write_text(sums, encoding="utf-8")
    code, out, err = command("train", "--out", stopped, "--resume")
    assert (code, err.count("\n")) == (0, 1), err
    assert str(checkpoint) in err and "Resuming after step 4." in out
    assert outcome(stopped) == outcome(runs / "undisturbed")
    assert f"damaged-{NEWEST}" in checkpoint_names(stopped)


@pytest.mark.parametrize("damage", ["empty", "deleted", "first byte"])
def test_a_run_without_a_readable_run_json_is_refused(own: Path, command: Command, damage: str) -> None:
    DAMAGES[damage](own / "run" / "run.json")
    assert "run.json cannot be read" in refused(own, command)

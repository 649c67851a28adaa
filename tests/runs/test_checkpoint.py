"""Checkpoints are restored bit for bit and written atomically; the newest and the best are kept."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import content
from safetensors.numpy import load_file, save_file

from minigpt import GPT, ModelConfig, load
from minigpt.data.tokenizer import Tokenizer
from minigpt.interop.hugging_face import export
from minigpt.np.parameters import Moments
from minigpt.runs.checkpoint import (
    TrainingState,
    checkpoints,
    load_config,
    load_model,
    load_optimizer,
    load_state,
    newest_checkpoint,
    prune_checkpoints,
    save,
    save_model,
    set_aside_damaged,
)
from minigpt.runs.folder import RunFolder

FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]

CONFIG = ModelConfig(vocab_size=257, context_length=8, d_model=12, n_layers=2, n_heads=3, norm_placement="post", tied=False)


def zero_moments(model: GPT) -> Moments:
    return Moments(model.parameters.zeros_like(), model.parameters.zeros_like())


def random_moments(model: GPT) -> Moments:
    moments = zero_moments(model)
    for i, p in enumerate(moments):
        p.flat[...] = np.random.default_rng(i).standard_normal(p.flat.size)
    return moments


def read_all(checkpoint: Path) -> None:
    model = load_model(checkpoint / "model.safetensors")
    load_state(checkpoint)
    load_optimizer(checkpoint, zero_moments(model))


def save_step(run: RunFolder, model: GPT, step: int = 12, val_loss: float | None = 1.25) -> Path:
    return save(run, model, random_moments(model), TrainingState(step, 3.5, val_loss))


def resave(path: Path, changes: dict[str, np.ndarray | None], metadata: dict[str, str]) -> None:
    tensors = {name: tensor for name, tensor in (load_file(path) | changes).items() if tensor is not None}
    save_file(tensors, path, metadata)


def metadata_of(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.create()
    Tokenizer.bytes().save(run.tokenizer)
    return run


def test_a_checkpoint_is_restored_bit_for_bit(run: RunFolder) -> None:
    model = GPT(CONFIG, seed=4)
    moments = random_moments(model)
    path = save(run, model, moments, TrainingState(12, 3.5, 1.25, skipped=2))
    assert path == run.path / "checkpoints" / "step-000012"
    assert sorted(file.name for file in path.iterdir()) == ["SHA256SUMS", *FILES]
    loaded = load_model(path / "model.safetensors")
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(loaded.parameters.flat, model.parameters.flat)
    assert load_state(path) == TrainingState(12, 3.5, 1.25, skipped=2)
    load_optimizer(path, restored := zero_moments(loaded))
    np.testing.assert_array_equal(restored.m.flat, moments.m.flat)
    np.testing.assert_array_equal(restored.v.flat, moments.v.flat)


def test_the_weights_are_a_plain_file_of_named_tensors(run: RunFolder) -> None:
    model = GPT(CONFIG)
    tensors = load_file(save_step(run, model) / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == model.parameters.shapes


def test_load_accepts_a_run_or_one_of_its_checkpoints(run: RunFolder) -> None:
    for step in (2, 10):
        model = GPT(CONFIG, seed=step)
        save_step(run, model, step)
    model, tokenizer = load(run.path)
    assert tokenizer
    np.testing.assert_array_equal(model.parameters.flat, GPT(CONFIG, seed=10).parameters.flat)
    assert tokenizer.decode(tokenizer.encode("Zoë")) == "Zoë"
    older, _ = load(str(run.path / "checkpoints" / "step-000002"))
    np.testing.assert_array_equal(older.parameters.flat, GPT(CONFIG, seed=2).parameters.flat)


def test_the_newest_checkpoint_is_the_one_with_the_highest_step(run: RunFolder) -> None:
    model = GPT(CONFIG)
    for step in (999_999, 1_000_000):
        save_step(run, model, step)
    assert newest_checkpoint(run.path).name == "step-1000000"


NOT_CHECKPOINTS = ["step-000002-backup", "step-2", "step-0000002", "step-00000²", "step-000002.tar", "step-"]


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_other_names_are_not_checkpoints(run: RunFolder, name: str) -> None:
    path = save_step(run, GPT(CONFIG), 1)
    other = shutil.copytree(path, run.checkpoints / name)
    assert checkpoints(run) == [path]
    with pytest.warns(UserWarning, match=f"checkpoints: ignored {name}, because") as warned:
        assert newest_checkpoint(run.path) == path
    assert len(warned) == 1
    set_aside_damaged(run, 0)
    prune_checkpoints(run, keep=1)
    assert sorted(run.checkpoints.iterdir()) == sorted([path.with_name("damaged-step-000001"), other])


def test_a_copy_that_is_named_can_be_used(run: RunFolder) -> None:
    path = save_step(run, GPT(CONFIG), 1)
    copy = shutil.copytree(path, path.with_name("step-000001-backup"))
    assert newest_checkpoint(copy) == copy


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("put", [shutil.copytree, os.symlink, lambda source, target: target.write_text("mine", encoding="utf-8")])
def test_what_is_in_the_place_of_a_checkpoint_is_kept(run: RunFolder, tmp_path: Path, put: Callable[..., object]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("years of work", encoding="utf-8")
    run.checkpoints.mkdir()
    put(tmp_path / "mine", run.checkpoints / "step-000007")
    before = content(run.checkpoints)
    path = save_step(run, GPT(CONFIG), 7)
    assert path == newest_checkpoint(run.path)
    path.rename(tmp_path / "saved")
    (run.checkpoints / "replaced-step-000007").rename(path)
    assert content(run.checkpoints) == before and (tmp_path / "mine" / "notes.txt").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_and_files_are_never_pruned(run: RunFolder, tmp_path: Path) -> None:
    model = GPT(CONFIG)
    for step in range(1, 6):
        save_step(run, model, step, val_loss=None)
    first = (run.checkpoints / "step-000001").rename(tmp_path / "moved")
    (run.checkpoints / "step-000001").symlink_to(first)
    (run.checkpoints / "step-000002").rename(tmp_path / "deleted")
    (run.checkpoints / "step-000002").symlink_to(tmp_path / "gone")
    (run.checkpoints / "step-000000").write_text("mine", encoding="utf-8")
    prune_checkpoints(run, keep=2)
    assert [path.name[-1] for path in checkpoints(run)] == ["0", "1", "2", "4", "5"]
    assert (first / "model.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027], ids=oct)
def test_the_permissions_of_all_files_are_those_of_new_files(run: RunFolder, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        model = GPT(CONFIG)
        folder = save_step(run, model)
        export(GPT(ModelConfig(vocab_size=7, context_length=4, d_model=4, n_layers=1, n_heads=1)), None, tmp_path / "export")
        save_model(model, tmp_path / "export" / "weights.safetensors")
    finally:
        os.umask(before)
    files = [*folder.iterdir(), *(tmp_path / "export").iterdir()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: oct(0o666 & ~umask) for path in files}


@pytest.mark.parametrize(
    "losses, kept",
    [
        ([3.0, 2.0, 1.0], [3]),  # the newest is the best
        ([1.0, 2.0, 3.0], [1, 3]),
        ([3.0, 1.0, 2.0], [2, 3]),
        ([None, None, None], [3]),
        ([2.0, None, None], [1, 3]),
        ([None, 1.0, None], [2, 3]),
        ([1.0], [1]),
    ],
)
def test_the_newest_and_the_best_are_kept(run: RunFolder, losses: list[float | None], kept: list[int]) -> None:
    model = GPT(CONFIG)
    for step, loss in enumerate(losses, start=1):
        save_step(run, model, step, loss)
    prune_checkpoints(run, keep=1)
    assert [path.name for path in checkpoints(run)] == [f"step-{step:06d}" for step in kept]


def test_the_leftover_of_a_killed_save_is_ignored_and_replaced(run: RunFolder) -> None:
    model = GPT(CONFIG)
    leftover = run.checkpoints / ".step-000005"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoints(run) == []
    with pytest.raises(ValueError, match="holds no checkpoint"):
        newest_checkpoint(run.path)
    save_step(run, model, 5)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000005"]


def test_a_save_that_fails_leaves_the_last_checkpoint(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(CONFIG)
    save_step(run, model, 5)

    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("json.dumps", full)
    with pytest.raises(OSError):
        save_step(run, model, 6)
    assert newest_checkpoint(run.path).name == "step-000005"


def test_the_same_step_can_be_saved_again(run: RunFolder) -> None:
    for seed in (1, 2):
        model = GPT(CONFIG, seed=seed)
        save_step(run, model)
    np.testing.assert_array_equal(load(run.path)[0].parameters.flat, model.parameters.flat)


@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_of_version_0_1_is_loaded(run: RunFolder, bias: bool) -> None:
    model = GPT(replace(CONFIG, attention_bias=bias, feed_forward_bias=bias), seed=4)
    model.parameters.flat[...] += np.random.default_rng(0).standard_normal(model.parameters.flat.size)
    path = save_step(run, model) / "model.safetensors"
    config = json.loads(metadata_of(path)["config"])
    del config["attention_bias"], config["feed_forward_bias"]
    resave(path, {}, {"config": json.dumps(config | {"bias": bias})})
    assert load_config(path) == model.config
    loaded = load_model(path)
    assert loaded.config == model.config
    np.testing.assert_array_equal(loaded.logits([[1, 2, 3]]), model.logits([[1, 2, 3]]))


# ---------------------------------------------------------------- errors


@pytest.fixture
def weights(run: RunFolder) -> Path:
    model = GPT(CONFIG)
    return save_step(run, model) / "model.safetensors"


@pytest.mark.parametrize(
    "tensor, problem",
    [(np.zeros((3, 4), np.float32), r"has shape \(3, 4\)"), (None, "is missing")],
    ids=["another shape", "missing"],
)
def test_a_tensor_that_does_not_fit_is_named(weights: Path, tensor: np.ndarray | None, problem: str) -> None:
    resave(weights, {"head": tensor}, metadata_of(weights))
    with pytest.raises(ValueError, match=rf"model\.safetensors: head {problem}, but must have shape \(257, 12\)"):
        load_model(weights)


def test_moments_that_do_not_fit_are_named(weights: Path) -> None:
    moments = weights.with_name("optimizer.safetensors")
    resave(moments, {"v.head": None}, {})
    with pytest.raises(ValueError, match=r"optimizer\.safetensors: head is missing"):
        read_all(weights.parent)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"config": "{"},
        {"config": '{"color": 3}'},
        {"config": '{"vocab_size": 0}'},
        {"config": "3"},
        {"config": '{"d_model": null}'},
    ],
    ids=str,
)
def test_weights_without_a_valid_configuration_are_refused(weights: Path, metadata: dict[str, str]) -> None:
    resave(weights, {}, metadata)
    with pytest.raises(ValueError, match=r"model\.safetensors has no valid model configuration"):
        load_model(weights)


@pytest.mark.parametrize(
    "content", [b"", b"not safetensors at all", b"\x10" + bytes(7) + b"{"], ids=["empty", "text", "truncated"]
)
@pytest.mark.parametrize("name", FILES)
def test_unreadable_files_are_named(weights: Path, name: str, content: bytes) -> None:
    (weights.parent / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        read_all(weights.parent)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json"])
def test_missing_files_are_named(weights: Path, name: str) -> None:
    (weights.parent / name).unlink()
    with pytest.raises(ValueError, match=name):
        read_all(weights.parent)


def test_load_reports_what_it_expected(tmp_path: Path, run: RunFolder) -> None:
    for path in (tmp_path / "none", run.path):
        with pytest.raises(ValueError, match=r"holds no checkpoint: expected the folder of a run, with checkpoints/step-\*/"):
            load(path)


def test_a_checkpoint_alone_has_no_tokenizer(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "checkpoints" / "step-000001"
    shutil.copytree(weights.parent, copy)
    model, tokenizer = load(copy)
    assert tokenizer is None
    np.testing.assert_array_equal(model.parameters.flat, load_model(weights).parameters.flat)


def test_state_is_plain_json(weights: Path) -> None:
    state = json.loads((weights.parent / "state.json").read_text(encoding="utf-8"))
    assert state == {"step": 12, "elapsed_s": 3.5, "val_loss": 1.25, "best_val_loss": None, "tokens": 0, "skipped": 0}

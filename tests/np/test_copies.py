"""Copies and unpickled models are complete: their blocks compute from the arrays that their parameters name."""

import copy
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from minigpt import GPT, ModelConfig
from minigpt.np.parameters import Parameters
from minigpt.runs.checkpoint import load_model, save_model

CONFIG = ModelConfig(vocab_size=11, context_length=8, d_model=8, n_layers=2, n_heads=2)
TOKENS, TARGETS = [[1, 2, 3, 4]], [[2, 3, 4, 5]]

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle, protocol 2": lambda x: pickle.loads(pickle.dumps(x, protocol=2)),
}


def assert_views(p: Parameters) -> None:
    """Every named array is the part of `flat` at its place, also in the scopes."""
    start = 0
    for name, array in p.items():
        assert np.shares_memory(array, p.flat), name
        np.testing.assert_array_equal(array.ravel(), p.flat[start : start + array.size])
        start += array.size
    assert start == p.flat.size
    for prefix in ("blocks.0.", "blocks.1.", "final_norm."):
        for name, array in p.with_prefix(prefix).items():
            assert np.shares_memory(array, p[prefix + name]), name


def saved_and_loaded(p: Parameters) -> Parameters:
    """Write the parameters to a checkpoint's weights file, and read them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(GPT(CONFIG, parameters=p), path)
        return load_model(path).parameters


def train(model: GPT, steps: int = 20) -> float:
    """The loop of the README."""
    for _ in range(steps):
        loss, grads = model.loss_and_grads(TOKENS, TARGETS)
        for name, parameter in model.parameters.items():
            parameter -= 0.1 * grads[name]
    return loss


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_trains_as_the_original_does(make: Callable[[GPT], GPT]) -> None:
    model = GPT(CONFIG, seed=1)
    model.parameters.with_prefix("blocks.0.")  # cached before the copy
    copied = make(model)
    assert_views(copied.parameters)
    if make is not copy.copy:  # a shallow copy shares its parameters, as shallow copies do
        assert not np.shares_memory(copied.parameters.flat, model.parameters.flat)
        assert train(copied) == train(model)


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_the_blocks_of_a_copy_compute_from_its_named_arrays(make: Callable[[GPT], GPT]) -> None:
    copied = make(GPT(CONFIG, seed=1))
    before = copied.logits(TOKENS)
    for name, array in copied.parameters.items():
        if name.startswith("blocks."):
            array[...] = 0
    assert not np.allclose(copied.logits(TOKENS), before)


def test_an_assignment_by_name_reaches_the_model() -> None:
    model = GPT(CONFIG, seed=1)
    before = model.logits(TOKENS)
    model.parameters["blocks.0.feed_forward.down.weight"] = np.ones((32, 8))
    assert not np.allclose(model.logits(TOKENS), before)
    assert_views(model.parameters)


def test_assignments_are_checked() -> None:
    p = Parameters({"a": (2, 3), "b": (4,)}, np.float32)
    with pytest.raises(ValueError, match=r"a has shape \(2, 3\), but is given an array of shape \(3, 2\)"):
        p["a"] = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"b has shape \(4,\), but is given an array of shape \(\)"):
        p["b"] = 1.0
    with pytest.raises(ValueError, match=r"flat has shape \(10,\), but is given an array of shape \(9,\)"):
        p.flat = np.ones(9)
    with pytest.raises(KeyError, match="c"):
        p["c"] = np.ones(4)
    with pytest.raises(AttributeError):
        del p["a"]  # type: ignore[attr-defined]
    assert not p.flat.any()


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"flat has shape \(5,\), but must have shape \(6,\)"):
        Parameters({"a": (2, 3)}, np.float32, np.zeros(5, np.float32))


def test_parameters_arrive_whole_in_another_process(tmp_path: Path) -> None:
    p = GPT(CONFIG, seed=1).parameters
    (tmp_path / "p").write_bytes(pickle.dumps(p))
    script = (
        "import pickle, sys, numpy as np; p = pickle.load(open(sys.argv[1], 'rb')); p.flat[...] = 7; "
        "assert all((a == 7).all() for a in p.values()); assert (p.with_prefix('blocks.1.').flat == 7).all(); print(len(p))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "p"], capture_output=True, encoding="utf-8")
    assert (done.stdout.strip(), done.stderr) == (str(len(p)), "")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_after_any_sequence_of_operations_every_array_is_a_view(data: DataObject) -> None:
    p = GPT(CONFIG, seed=2).parameters
    names = list(p)
    for _ in range(data.draw(st.integers(1, 6))):
        expected = {name: array.copy() for name, array in p.items()}
        operation = data.draw(st.sampled_from([*COPIES, "load", "assign", "add", "flat", "under", "zeros_like"]))
        if operation in COPIES:
            p = COPIES[operation](p)
        elif operation == "load":
            p = saved_and_loaded(p)
        elif operation == "assign":
            name = data.draw(st.sampled_from(names))
            expected[name] = np.full(p[name].shape, data.draw(st.floats(-2, 2, width=32)), np.float32)
            p[name] = expected[name]
        elif operation == "add":
            name = data.draw(st.sampled_from(names))
            p[name] += 1
            expected[name] += 1
        elif operation == "flat":
            p.flat *= 2
            expected = {name: 2 * array for name, array in expected.items()}
        elif operation == "under":
            p.with_prefix("blocks.1.attention.").flat.fill(3)
            expected |= {name: np.full_like(p[name], 3) for name in names if name.startswith("blocks.1.attention.")}
        else:
            p = p.zeros_like()
            expected = {name: np.zeros_like(array) for name, array in expected.items()}
        assert_views(p)
        assert list(p) == names
        for name in names:
            np.testing.assert_array_equal(p[name], expected[name])

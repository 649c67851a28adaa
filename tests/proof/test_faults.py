"""Every planted fault is caught, and the source is restored afterwards."""

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np import activations, block, ops, positions
from minigpt.proof import faults
from minigpt.proof.cases import all_cases
from minigpt.proof.checks import Check, compare_with_differences
from minigpt.proof.faults import Fault
from minigpt.proof.planted import FAULTS
from minigpt.training import muon

pytest.importorskip("torch")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_is_caught(fault: Fault) -> None:
    """A fault in the training is caught by a check of training, and one in a trace by a check of traces: these run first."""
    catcher = fault.caught_by()
    assert catcher is not None
    checks = {"cases": faults._checks, "trace": faults._trace_checks, "training": faults._training_checks}
    assert catcher in {name for name, _ in checks[fault.area]()}


def test_there_are_at_least_120_distinct_faults() -> None:
    assert len({(fault.function, fault.original, fault.mutated) for fault in FAULTS}) == len(FAULTS) >= 120
    assert len(set(map(str, FAULTS))) == len(FAULTS)


def test_an_equivalent_mutation_is_not_caught() -> None:
    harmless = Fault("arguments swapped", activations.relu, "np.maximum(x, 0,", "np.maximum(0, x,")
    assert harmless.caught_by() is None


def test_a_planted_fault_changes_the_result_and_is_removed() -> None:
    x = np.arange(6.0).reshape(2, 3)
    weight, bias = np.ones((3, 2)), np.ones(2)
    fault = Fault("bias omitted", ops.linear, "y += bias", "pass")
    before = ops.linear(x, weight, bias)[0]
    with fault.planted():
        during = ops.linear(x, weight, bias)[0]
    after = ops.linear(x, weight, bias)[0]
    np.testing.assert_array_equal(during, before - 1)
    np.testing.assert_array_equal(after, before)


def test_a_planted_fault_affects_modules_that_import_the_function_by_name() -> None:
    assert block.relu is activations.relu
    with Fault("at least 1", activations.relu, "np.maximum(x, 0,", "np.maximum(x, 1,").planted():
        assert (block.ACTIVATIONS["relu"][0](np.zeros((2, 2)))[0] == 1).all()


def test_a_fault_is_removed_after_an_error() -> None:
    code = ops.linear.__code__
    with pytest.raises(RuntimeError), Fault("bias omitted", ops.linear, "y += bias", "pass").planted():
        raise RuntimeError
    assert ops.linear.__code__ is code


@pytest.mark.parametrize("text, times", [("y -= bias", 0), ("bias", 5)])
def test_text_that_does_not_occur_exactly_once_raises(text: str, times: int) -> None:
    with (
        pytest.raises(ValueError, match=rf"the source contains '{text}' {times} times, but must contain it once"),
        Fault("outdated", ops.linear, text, "pass").planted(),
    ):
        pass


def test_caches_are_cleared_when_a_fault_is_planted_and_removed() -> None:
    """One example is the table of rope, which is computed once."""
    model = GPT(ModelConfig(vocab_size=9, context_length=5, d_model=8, n_layers=1, n_heads=2, positions="rope"), dtype=np.float64)
    model.parameters["blocks.0.attention.qkv.weight"][...] *= 50
    fault = next(fault for fault in FAULTS if fault.function is positions.rope_table)
    before = model.logits([[1, 2, 3, 4]])
    with fault.planted():
        assert not np.allclose(model.logits([[1, 2, 3, 4]]), before)
    np.testing.assert_array_equal(model.logits([[1, 2, 3, 4]]), before)


def test_a_fault_that_makes_shapes_mismatch_is_caught() -> None:
    fault = Fault("weight not transposed", ops.linear_backward, "np.matmul(dy, weight.T,", "np.matmul(dy, weight,")
    assert fault.caught_by() == "linear"


def test_the_order_of_the_checks_does_not_change_which_ones_run() -> None:
    orders = {area: [name for name, _ in faults._checks(area)] for area in ("cases", "trace", "training")}
    assert [names[0] for names in orders.values()] == ["linear", "trace, GPT-2", "orthogonalize, jordan"]
    assert sorted(orders["cases"]) == sorted(orders["trace"]) == sorted(orders["training"])


def test_without_pytorch_the_faults_of_orthogonalize_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "has_torch", lambda: False)
    monkeypatch.setattr(faults, "all_cases", lambda: [])
    selected = [fault for fault in FAULTS if fault.function in (muon.orthogonalize, muon._iterations)]
    assert len(selected) >= 8
    assert all(fault.caught_by() for fault in selected)


def test_caught_by_returns_none_if_all_checks_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_checks", lambda area: iter(()))
    assert FAULTS[0].caught_by() is None


def test_finite_differences_alone_catch_faults_in_backward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "has_torch", lambda: False)

    def refuse(*arguments: object) -> Check:
        raise AssertionError("compared with PyTorch, which is not installed")

    monkeypatch.setattr(faults, "compare_with_torch", refuse)
    unmasked = next(fault for fault in FAULTS if fault.description == "weights recomputed without the mask")
    assert unmasked.caught_by() == "attention 3-D causal"


def test_finite_differences_do_not_catch_a_wrong_function_with_a_correct_gradient() -> None:
    """This is why both comparisons are needed."""
    shifted = Fault("1 added", positions.position_embedding, "x += weight[positions]", "x += weight[positions] + 1")
    case = next(case for case in all_cases() if case.name == "position embedding")
    with shifted.planted():
        assert compare_with_differences(case).passed
    assert shifted.caught_by() == "position embedding"

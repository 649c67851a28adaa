"""Negative controls: every planted fault is caught, and planting one leaves no trace."""

import numpy as np
import pytest

from minigpt import GPT, ModelConfig
from minigpt.np import activations, block, ops, positions
from minigpt.proof import faults
from minigpt.proof.checks import Check, against_differences
from minigpt.proof.faults import FAULTS, Fault

pytest.importorskip("torch")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_is_caught(fault: Fault) -> None:
    assert fault.caught_by() is not None


def test_there_are_at_least_twenty_distinct_faults() -> None:
    assert len({(fault.function, fault.right, fault.wrong) for fault in FAULTS}) == len(FAULTS) >= 20
    assert len(set(map(str, FAULTS))) == len(FAULTS)


def test_healthy_code_is_not_accused() -> None:
    harmless = Fault("nothing at all", activations.relu, "np.maximum(x, 0,", "np.maximum(0, x,")
    assert harmless.caught_by() is None


def test_a_planted_fault_changes_the_result_and_is_taken_back() -> None:
    x = np.arange(6.0).reshape(2, 3)
    weight, bias = np.ones((3, 2)), np.ones(2)
    forgotten = Fault("bias forgotten", ops.linear, "y += bias", "pass")
    before = ops.linear(x, weight, bias)[0]
    with forgotten.planted():
        during = ops.linear(x, weight, bias)[0]
    after = ops.linear(x, weight, bias)[0]
    np.testing.assert_array_equal(during, before - 1)
    np.testing.assert_array_equal(after, before)


def test_a_planted_fault_reaches_those_who_imported_the_function_by_name() -> None:
    assert block.relu is activations.relu
    with Fault("never below 1", activations.relu, "np.maximum(x, 0,", "np.maximum(x, 1,").planted():
        assert (block.ACTIVATIONS["relu"][0](np.zeros((2, 2)))[0] == 1).all()


def test_a_fault_is_taken_back_after_an_error_too() -> None:
    healthy = ops.linear.__code__
    with pytest.raises(RuntimeError), Fault("bias forgotten", ops.linear, "y += bias", "pass").planted():
        raise RuntimeError
    assert ops.linear.__code__ is healthy


@pytest.mark.parametrize("text, times", [("y -= bias", 0), ("bias", 5)])
def test_text_that_is_not_there_exactly_once_is_an_error(text: str, times: int) -> None:
    with (
        pytest.raises(ValueError, match=rf"stands {times} times in the source, expected once"),
        Fault("stale", ops.linear, text, "pass").planted(),
    ):
        pass


def test_what_a_cached_function_remembers_is_forgotten_with_the_fault() -> None:
    """As the angles of rope, which are computed once."""
    model = GPT(ModelConfig(vocab_size=9, context_length=5, d_model=8, n_layers=1, n_heads=2, positions="rope"), dtype=np.float64)
    model.parameters["blocks.0.attention.qkv.weight"][...] *= 50
    fault = next(fault for fault in FAULTS if fault.function is positions.angles)
    before = model.logits([[1, 2, 3, 4]])
    with fault.planted():
        assert not np.allclose(model.logits([[1, 2, 3, 4]]), before)
    np.testing.assert_array_equal(model.logits([[1, 2, 3, 4]]), before)


def test_shapes_that_do_not_fit_count_as_caught() -> None:
    shapeless = Fault("weight not transposed", ops.linear_backward, "np.matmul(dy, weight.T,", "np.matmul(dy, weight,")
    assert shapeless.caught_by() == "linear"


def test_a_fault_that_nothing_notices_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_checks", lambda: iter(()))
    assert FAULTS[0].caught_by() is None


def test_finite_differences_alone_catch_faults_in_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyTorch the faults of backward functions are still caught."""
    monkeypatch.setattr(faults, "has_torch", lambda: False)

    def refuse(*arguments: object) -> Check:
        raise AssertionError("compared with PyTorch, which is not there")

    monkeypatch.setattr(faults, "against_torch", refuse)
    unmasked = next(fault for fault in FAULTS if fault.what == "backward recomputed unmasked")
    assert unmasked.caught_by() == "attention 3-D causal"


def test_finite_differences_do_not_notice_a_wrong_function_with_the_right_gradient() -> None:
    """Why both comparisons are needed."""
    from minigpt.proof.cases import ladder

    shifted = Fault("shifted", positions.positions, "x += weight[places]", "x += weight[places] + 1")
    case = next(case for case in ladder() if case.name == "positions")
    with shifted.planted():
        assert against_differences(case).passed
    assert shifted.caught_by() == "positions"

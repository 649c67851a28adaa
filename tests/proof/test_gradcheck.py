"""`minigpt gradcheck`: its table, its verdict, and what it does without PyTorch."""

import re
import sys
from collections.abc import Iterator

import pytest

from minigpt.proof import cases, checks, faults, gradcheck, training
from minigpt.proof.checks import Check
from minigpt.proof.faults import Fault


def outcome(relative: float = 0.0) -> Check:
    return Check("an operation", "causal", "float64", "PyTorch", 1e-12, relative, tolerance=1e-9)


def the_fault(what: str) -> Fault:
    return next(fault for fault in faults.FAULTS if fault.what == what)


def run(quick: bool = False) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return gradcheck.gradcheck(quick, say=lines.append), lines


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of two rungs and one fault: the whole one is run test by test elsewhere."""
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda: iter([outcome(), outcome(1e-10)]))
    monkeypatch.setattr(training, "against_torch", lambda: iter([outcome()]))
    monkeypatch.setattr(gradcheck, "FAULTS", [the_fault("bias forgotten")])


@pytest.mark.usefixtures("short")
def test_prints_a_table_and_a_verdict() -> None:
    pytest.importorskip("torch")
    passed, lines = run()
    assert passed
    assert lines[0].split() == ["operation", "mask", "dtype", "against", "absolute", "relative", "verdict"]
    assert lines[1].split() == ["an", "operation", "causal", "float64", "PyTorch", "1.0e-12", "0.0e+00", "ok"]
    assert lines[-2].split()[-3:] == ["caught", "by", "linear"]
    assert lines[-1] == "4 checks, 0 failed"


@pytest.mark.usefixtures("short")
def test_one_failure_is_said_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda: iter([outcome(), outcome(2e-9)]))
    passed, lines = run(quick=True)
    assert not passed
    assert lines[2].endswith("FAILED: more than 1e-09")
    assert lines[-1] == "2 checks, 1 failed"


@pytest.mark.usefixtures("short")
def test_a_fault_that_is_not_caught_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(faults, "_checks", lambda: iter(()))
    passed, lines = run()
    assert not passed
    assert lines[-2].endswith("NOT CAUGHT")
    assert lines[-1] == "4 checks, 1 failed"


@pytest.fixture
def first_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder that ends where single operations do."""
    monkeypatch.setattr(checks, "ladder", lambda: list(cases.operations()))


@pytest.mark.usefixtures("first_floor")
def test_a_fault_in_the_source_makes_it_fail() -> None:
    with the_fault("target not subtracted").planted():
        passed, lines = run(quick=True)
    assert not passed
    assert any(line.startswith("cross_entropy ") and "FAILED" in line for line in lines)
    assert not any(line.startswith("linear ") and "FAILED" in line for line in lines)


def test_quick_runs_the_whole_ladder_in_seconds() -> None:
    passed, lines = run(quick=True)
    assert passed
    assert re.fullmatch(r"\d\d+ checks, 0 failed", lines[-1])
    assert not any(line.startswith(("planted", "loss curve")) for line in lines)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (checks, faults, gradcheck):
        monkeypatch.setattr(module, "has_torch", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it is an error now
    monkeypatch.delitem(sys.modules, "minigpt.np.torch_primitives", raising=False)
    yield


@pytest.mark.usefixtures("no_torch", "first_floor")
def test_without_torch_finite_differences_run_and_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "FAULTS", [the_fault("gamma dropped")])
    passed, lines = run()
    assert passed
    kinds = {line.split("float64")[1].split()[0] for line in lines[1:-3]}
    assert kinds == {"differences"}
    assert lines[-3].endswith("caught by layer_norm")
    assert "pip install" in lines[-2]
    assert re.fullmatch(r"\d\d checks, 0 failed", lines[-1])


@pytest.mark.usefixtures("no_torch")
def test_without_torch_a_fault_only_it_can_see_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda: iter([outcome()]))
    monkeypatch.setattr(faults, "_checks", lambda: iter(()))
    monkeypatch.setattr(gradcheck, "FAULTS", faults.FAULTS[:1])
    passed, lines = run()
    assert passed
    assert lines[-1] == "1 checks, 0 failed"


def test_torch_is_found_exactly_where_it_is_installed() -> None:
    import importlib.metadata

    installed = any(name.lower() == "torch" for name in importlib.metadata.packages_distributions())
    assert checks.has_torch() == installed

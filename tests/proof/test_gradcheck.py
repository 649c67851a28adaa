"""`minigpt gradcheck`: its table, its return value, and what it does without PyTorch."""

import re
import sys
from collections.abc import Iterator

import pytest

from minigpt.proof import cases, checks, faults, gradcheck, training
from minigpt.proof.checks import Check
from minigpt.proof.faults import Fault


def make_check(relative: float = 0.0) -> Check:
    return Check("an operation", "causal", "float64", "PyTorch", 1e-12, relative, tolerance=1e-9)


def find_fault(description: str) -> Fault:
    return next(fault for fault in faults.FAULTS if fault.description == description)


def run(quick: bool = False) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return gradcheck.gradcheck(quick, write_line=lines.append), lines


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run three checks and one fault; test_checks.py and test_faults.py run all of them."""
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda: iter([make_check(), make_check(1e-10)]))
    monkeypatch.setattr(training, "training_checks", lambda: iter([make_check()]))
    monkeypatch.setattr(gradcheck, "FAULTS", [find_fault("bias omitted")])


@pytest.mark.usefixtures("short")
def test_prints_a_table_and_a_summary() -> None:
    pytest.importorskip("torch")
    passed, lines = run()
    assert passed
    assert lines[0].split() == ["operation", "mask", "dtype", "reference", "abs", "error", "rel", "error", "result"]
    assert lines[1].split() == ["an", "operation", "causal", "float64", "PyTorch", "1.0e-12", "0.0e+00", "ok"]
    assert lines[-2].split()[-3:] == ["caught", "by", "linear"]
    assert lines[-1] == "4 checks, 0 failed"


@pytest.mark.usefixtures("short")
def test_a_failed_check_is_printed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda: iter([make_check(), make_check(2e-9)]))
    passed, lines = run(quick=True)
    assert not passed
    assert lines[2].endswith("FAILED: more than 1e-09")
    assert lines[-1] == "2 checks, 1 failed"


@pytest.mark.usefixtures("short")
def test_a_fault_that_is_not_caught_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(faults, "_checks", lambda: iter(()))
    passed, lines = run()
    assert not passed
    assert lines[-2].endswith("NOT CAUGHT")
    assert lines[-1] == "4 checks, 1 failed"


@pytest.fixture
def operations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the cases to single operations."""
    monkeypatch.setattr(checks, "all_cases", lambda: list(cases.operations()))


@pytest.mark.usefixtures("operations_only")
def test_fails_if_the_source_has_a_fault() -> None:
    with find_fault("one_hot(target) not subtracted").planted():
        passed, lines = run(quick=True)
    assert not passed
    assert any(line.startswith("cross_entropy ") and "FAILED" in line for line in lines)
    assert not any(line.startswith("linear ") and "FAILED" in line for line in lines)


def test_quick_runs_all_cases_and_nothing_else() -> None:
    passed, lines = run(quick=True)
    assert passed
    assert re.fullmatch(r"\d\d+ checks, 0 failed", lines[-1])
    assert not any(line.startswith(("planted", "loss curve")) for line in lines)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (checks, faults, gradcheck):
        monkeypatch.setattr(module, "has_torch", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises an error
    monkeypatch.delitem(sys.modules, "minigpt.np.torch_primitives", raising=False)
    yield


@pytest.mark.usefixtures("no_torch", "operations_only")
def test_without_torch_finite_differences_run_and_the_install_command_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "FAULTS", [find_fault("gamma omitted")])
    passed, lines = run()
    assert passed
    references = {" ".join(line.split("float64")[1].split()[:2]) for line in lines[1:-3]}
    assert references == {"finite differences"}
    assert lines[-3].endswith("caught by layer_norm")
    assert "pip install" in lines[-2]
    assert re.fullmatch(r"\d\d checks, 0 failed", lines[-1])


@pytest.mark.usefixtures("no_torch")
def test_without_torch_a_fault_that_only_torch_can_catch_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda: iter([make_check()]))
    monkeypatch.setattr(faults, "_checks", lambda: iter(()))
    monkeypatch.setattr(gradcheck, "FAULTS", faults.FAULTS[:1])
    passed, lines = run()
    assert passed
    assert lines[-1] == "1 checks, 0 failed"


def test_has_torch_agrees_with_the_installed_packages() -> None:
    import importlib.metadata

    installed = any(name.lower() == "torch" for name in importlib.metadata.packages_distributions())
    assert checks.has_torch() == installed

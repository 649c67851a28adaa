"""`minigpt gradcheck`: a line for each rung, a summary of the planted faults, its return value, and the same without PyTorch."""

import re
import sys
from collections.abc import Iterator

import pytest

from minigpt.proof import cases, checks, faults, gradcheck, orthogonalization, tracing, training
from minigpt.proof.checks import Check
from minigpt.proof.faults import Fault
from minigpt.proof.planted import FAULTS

NAN = float("nan")


def make_check(relative: float = 0.0, dtype: str = "float64", operation: str = "an operation") -> Check:
    return Check(operation, "causal", dtype, "PyTorch", 1e-12, relative, checks.TOLERANCE[dtype])


def find_fault(description: str) -> Fault:
    return next(fault for fault in FAULTS if fault.description == description)


def run(quick: bool = False, verbose: bool = False) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return gradcheck.gradcheck(quick, verbose, write_line=lines.append), lines


def words(line: str) -> list[str]:
    """Return the columns of a line."""
    return re.split(r"  +", line.strip())


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run six checks and one fault; test_checks.py and test_faults.py run all of them."""
    monkeypatch.setattr(gradcheck, "RUNGS", {"operations": cases.operations})
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda cases: iter(CHECKS))
    monkeypatch.setattr(gradcheck, "orthogonalize_checks", lambda: iter([make_check()]))
    monkeypatch.setattr(gradcheck, "trace_checks", lambda: iter([make_check()]))
    monkeypatch.setattr(training, "training_checks", lambda: iter([("loss curve", iter([make_check()]))]))
    monkeypatch.setattr(gradcheck, "FAULTS", [find_fault("bias omitted")])


CHECKS = [make_check(1e-10), make_check(2e-7, "float32", "another operation"), make_check(1e-11)]


@pytest.mark.usefixtures("short")
def test_prints_a_line_for_each_rung_and_a_summary() -> None:
    pytest.importorskip("torch")
    passed, lines = run()
    assert passed
    assert words(lines[0]) == ["rung", "checks", "error", "allowed", "largest error in"]
    # 1e-10 is a tenth of what is allowed in float64; 2e-7 is only a fiftieth of it in float32
    assert words(lines[1]) == ["operations", "3", "1.0e-10", "1e-09", "an operation causal"]
    assert words(lines[2]) == ["trace", "1", "0.0e+00", "1e-09", "an operation causal"]
    assert words(lines[3]) == ["orthogonalize", "1", "0.0e+00", "1e-09", "an operation causal"]
    assert words(lines[4]) == ["loss curve", "1", "0.0e+00", "1e-09", "an operation causal"]
    assert lines[-1] == "6 checks, 0 failed; 1 planted faults, 1 detected"
    assert not any("bias omitted" in line for line in lines)


@pytest.mark.usefixtures("short")
def test_verbose_prints_every_check_and_every_fault_in_aligned_lines() -> None:
    pytest.importorskip("torch")
    passed, lines = run(verbose=True)
    assert passed
    rows = lines[1:4]
    assert [words(row) for row in rows] == [
        ["float64", "1.0e-10", "an operation causal"],
        ["float32", "2.0e-07", "another operation causal"],
        ["float64", "1.0e-11", "an operation causal"],
    ]
    assert {row.index("an") for row in rows} == {rows[0].index("an")}
    assert words(lines[4])[:2] == ["operations", "3"]
    assert lines[-3:] == [
        "detected by linear:",
        "  linear: bias omitted",
        "6 checks, 0 failed; 1 planted faults, 1 detected",
    ]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("error, shown", [(2e-9, "2.0e-09"), (NAN, "nan")])
def test_a_failed_check_has_its_own_line(monkeypatch: pytest.MonkeyPatch, error: float, shown: str) -> None:
    monkeypatch.setattr(gradcheck, "gradient_checks", lambda cases: iter([*CHECKS, make_check(error)]))
    passed, lines = run(quick=True)
    assert not passed
    assert words(lines[1]) == ["operations", "4", shown, "1e-09", "an operation causal"]
    expected = f"relative error {shown} (absolute 1.0e-12), allowed 1e-09"
    assert lines[2] == f"FAILED: an operation causal, float64, against PyTorch: {expected}"
    assert lines[-1].startswith("4 checks, 1 failed; ")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("verbose", [False, True])
def test_a_fault_that_is_not_detected_is_named_and_counts_as_failed(monkeypatch: pytest.MonkeyPatch, verbose: bool) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(faults, "_checks", lambda area: iter(()))
    passed, lines = run(verbose=verbose)
    assert not passed
    assert lines[-3 if verbose else -2 :] == [
        *(["NOT DETECTED:", "  linear: bias omitted"] if verbose else ["NOT DETECTED: linear: bias omitted"]),
        "6 checks, 0 failed; 1 planted faults, 0 detected",
    ]


@pytest.fixture
def operations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the rungs, and the checks that must detect the faults, to the operations."""
    monkeypatch.setattr(gradcheck, "RUNGS", {"operations": cases.operations})
    monkeypatch.setattr(faults, "all_cases", lambda: list(cases.operations()))


@pytest.mark.usefixtures("operations_only")
def test_fails_if_the_source_has_a_fault() -> None:
    with find_fault("one_hot(target) not subtracted").planted():
        passed, lines = run(quick=True)
    assert not passed
    failed = [line for line in lines if line.startswith("FAILED: ")]
    assert {line.removeprefix("FAILED: ").split(", float")[0] for line in failed} == {"cross_entropy", "LM head and loss"}


def test_quick_runs_all_cases_and_nothing_else_in_80_columns() -> None:
    passed, lines = run(quick=True)
    assert passed
    assert [words(line)[0] for line in lines[1:5]] == ["operations", "attention", "blocks", "model"]
    assert re.fullmatch(r"(\d\d+) checks, 0 failed; without --quick, faults are planted as well", lines[-1])
    assert sum(int(words(line)[1]) for line in lines[1:5]) == int(lines[-1].split()[0])
    assert not any("loss curve  " in line for line in lines)
    assert max(len(line) for line in "\n".join(lines).split("\n")) <= 80


def test_lines_fit_in_80_columns() -> None:
    """Those of every check and of every fault with --verbose, and of a rung, whatever check has the largest error."""
    names = [str(case) for case in cases.all_cases()]
    lines = [gradcheck.ROW.format("differences", "1.0e-10", name) for name in names]
    for case in cases.all_cases():
        result = Check(case.name, case.mask, "float64", "PyTorch", 1.0, 1.0, 1e-9)
        gradcheck._run_rung("training step", iter([result]), False, lambda line: lines.append(line.partition("FAILED: ")[0]))
    lines += [f"  {fault}" for fault in FAULTS] + [f"detected by {name}:" for name in names]
    assert [line for line in lines if len(line) > 80] == []


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (checks, faults, gradcheck, orthogonalization, tracing):
        monkeypatch.setattr(module, "has_torch", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises an error
    monkeypatch.delitem(sys.modules, "minigpt.np.torch_primitives", raising=False)
    yield


@pytest.mark.usefixtures("no_torch", "operations_only")
@pytest.mark.parametrize("verbose", [False, True])
def test_without_torch_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch, verbose: bool) -> None:
    needs_torch = find_fault("bias correction omitted")  # of AdamW
    monkeypatch.setattr(gradcheck, "FAULTS", [find_fault("gamma omitted"), find_fault("normalization omitted"), needs_torch])
    passed, lines = run(verbose=verbose)
    assert passed
    text = "\n".join(lines)
    against = {words(line)[0] for line in lines[1:] if line.startswith(("diff", "float", "NumPy"))}
    assert against == ({"differences", "NumPy's SVD"} if verbose else set())
    assert "PyTorch is not installed: the optimizer, the training step and the loss curve\nwere not checked. " in text
    assert "pip install" in text
    assert re.fullmatch(r"\d\d checks, 0 failed; 3 planted faults, 2 detected \(1 need PyTorch\)", lines[-1])
    listed = (
        "detected by layer_norm:\n  layer_norm_backward: gamma omitted\n"
        "detected by orthogonalize, jordan:\n  orthogonalize: normalization omitted\n"
        f"not detected without PyTorch:\n  {needs_torch}\n"
    )
    assert (listed in text, str(needs_torch) in text) == (verbose, verbose)


def test_has_torch_agrees_with_the_installed_packages() -> None:
    import importlib.metadata

    installed = any(name.lower() == "torch" for name in importlib.metadata.packages_distributions())
    assert checks.has_torch() == installed

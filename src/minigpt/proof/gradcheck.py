"""`minigpt gradcheck`: run all checks and print one line for each rung of the ladder, or one for each check."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from threadpoolctl import threadpool_limits

from minigpt.proof import training
from minigpt.proof.cases import RUNGS
from minigpt.proof.checks import CURVE_TOLERANCE, DIFFERENCES_TOLERANCE, TOLERANCE, Check, gradient_checks, has_torch
from minigpt.proof.faults import Fault
from minigpt.proof.orthogonalization import ORTHOGONALIZE_TOLERANCE, orthogonalize_checks
from minigpt.proof.planted import FAULTS
from minigpt.proof.tracing import trace_checks

SUMMARY = "{:13}  {:>6}  {:>7}  {:>7}  {}"
NAME_WIDTH = 80 - len(SUMMARY.format("", "", "", "", ""))
ROW = "{:11}  {:>7}  {}"
NO_TORCH = (
    "PyTorch is not installed: the optimizer, the training step and the loss curve\n"
    'were not checked. To install it: pip install -e ".[test]"'
)
TOLERANCES = (
    f"Errors are relative. Allowed against PyTorch: {TOLERANCE['float64']:g} in float64, {TOLERANCE['float32']:g} in float32\n"
    f"({ORTHOGONALIZE_TOLERANCE['float32']:g} in orthogonalize, {CURVE_TOLERANCE['float32']:g} in the loss curve).\n"
    f"Allowed against finite differences: {DIFFERENCES_TOLERANCE:g}."
)
Rung = tuple[str, Iterator[Check]]


def gradcheck(quick: bool = False, verbose: bool = False, write_line: Callable[[str], None] = print) -> bool:
    """Run all checks, write a line for each rung (operations, attention, ...), and return whether all of them passed.

    With `quick`, the checks of training and the planted faults are left out. With `verbose`, a line is
    written for each check and each planted fault as well.
    """
    if has_torch():
        from minigpt.np import torch_primitives  # noqa: F401  # imports torch, so that its threads are limited as well
    with threadpool_limits(1):  # the arrays are small, and more threads would be slower
        return _run(quick, verbose, write_line)


def _run(quick: bool, verbose: bool, write_line: Callable[[str], None]) -> bool:
    write_line(SUMMARY.format("rung", "checks", "error", "allowed", "largest error in"))
    checks = [*chain.from_iterable(_run_rung(name, checks, verbose, write_line) for name, checks in _rungs(quick))]
    failed = [check for check in checks if not check.passed]
    write_line(TOLERANCES)
    if not has_torch():
        write_line(NO_TORCH)
    summary = f"{len(checks)} checks, {len(failed)} failed"
    if quick:
        write_line(f"{summary}; without --quick, faults are planted as well")
        return not failed
    undetected = _plant(FAULTS, verbose, write_line)
    summary += f"; {len(FAULTS)} planted faults, {len(FAULTS) - len(undetected)} detected"
    if undetected and not has_torch():  # finite differences alone cannot detect every fault
        write_line(f"{summary} ({len(undetected)} need PyTorch)")
        return not failed
    write_line(summary)
    return not failed and not undetected


def _rungs(quick: bool) -> Iterator[Rung]:
    """Yield the checks of each rung of the ladder, from small to large."""
    yield from ((name, gradient_checks(cases())) for name, cases in RUNGS.items())
    if quick:
        return
    yield "trace", trace_checks()
    yield "orthogonalize", orthogonalize_checks()
    if has_torch():
        yield from training.training_checks()


def _run_rung(name: str, checks: Iterator[Check], verbose: bool, write_line: Callable[[str], None]) -> list[Check]:
    """Run the checks of a rung, and write a line with the largest error and a line for each check that failed."""
    done = []
    for check in checks:
        if verbose:
            against = {"PyTorch": check.dtype, "finite differences": "differences"}.get(check.reference, check.reference)
            write_line(ROW.format(against, f"{check.relative_error:.1e}", _name(check)))
        done.append(check)
    worst = max(done, key=lambda check: check.share)
    numbers = (len(done), f"{worst.relative_error:.1e}", f"{worst.tolerance:g}")
    where = textwrap.shorten(_name(worst), NAME_WIDTH, placeholder=" ...")
    write_line(SUMMARY.format(name, *numbers, where))
    for check in done:
        if not check.passed:
            errors = f"relative error {check.relative_error:.1e} (absolute {check.absolute_error:.1e})"
            what = f"{_name(check)}, {check.dtype}, against {check.reference}"
            write_line(f"FAILED: {what}: {errors}, allowed {check.tolerance:g}")
    return done


def _name(check: Check) -> str:
    return f"{check.operation} {check.mask}".strip()


def _plant(faults: Sequence[Fault], verbose: bool, write_line: Callable[[str], None]) -> list[Fault]:
    """Plant each fault, and return those that no check detects. With `verbose`, write them below the check that detects them."""
    undetected, heading = [], ""
    missed = "NOT DETECTED" if has_torch() else "not detected without PyTorch"
    write_line(f"Planting {len(faults)} faults in the code, one at a time (up to two minutes) ...")
    for fault in faults:
        catcher = fault.caught_by()
        if catcher is None:
            undetected.append(fault)
        if verbose:
            previous, heading = heading, f"detected by {catcher}:" if catcher else f"{missed}:"
            if heading != previous:
                write_line(heading)
            write_line(f"  {fault}")
        elif catcher is None and has_torch():
            write_line(f"{missed}: {fault}")
    return undetected

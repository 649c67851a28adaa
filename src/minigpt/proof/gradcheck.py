"""`minigpt gradcheck`: the whole proof as a table."""

from collections.abc import Callable, Iterator

from threadpoolctl import threadpool_limits

from minigpt.proof import training
from minigpt.proof.checks import INSTALL_TORCH, Check, gradient_checks, has_torch
from minigpt.proof.faults import FAULTS

COLUMNS = "{:45}  {:9}  {:8}  {:12}  {:>9}  {:>9}  {}"


def gradcheck(quick: bool = False, say: Callable[[str], None] = print) -> bool:
    """Run every check and say how it went, a line each; returns whether all passed.

    `quick` leaves out the rungs above the whole model and the planted faults.
    """
    if has_torch():
        from minigpt.np import torch_primitives  # noqa: F401  # loads torch, so that its threads are limited, too
    with threadpool_limits(1):  # the arrays are small: more threads only wait for each other
        return _run(quick, say)


def _run(quick: bool, say: Callable[[str], None]) -> bool:
    say(COLUMNS.format("operation", "mask", "dtype", "against", "absolute", "relative", "verdict"))
    checks = failed = 0
    for check in _checks(quick):
        say(_row(check))
        checks, failed = checks + 1, failed + (not check.passed)
    if not quick:
        for fault in FAULTS:
            catcher = fault.caught_by()
            verdict = f"caught by {catcher}" if catcher else "NOT CAUGHT"
            if catcher or has_torch():
                say(f"planted: {fault!s:65}  {verdict}")
                checks, failed = checks + 1, failed + (catcher is None)
    if not has_torch():
        say(INSTALL_TORCH)
    say(f"{checks} checks, {failed} failed")
    return failed == 0


def _checks(quick: bool) -> Iterator[Check]:
    yield from gradient_checks()
    if has_torch() and not quick:
        yield from training.against_torch()


def _row(check: Check) -> str:
    verdict = "ok" if check.passed else f"FAILED: more than {check.tolerance:g}"
    errors = (f"{check.absolute:.1e}", f"{check.relative:.1e}")
    return COLUMNS.format(check.operation, check.mask, check.dtype, check.against, *errors, verdict)

"""`minigpt gradcheck`: run all checks and print their results as a table."""

from collections.abc import Callable, Iterator

from threadpoolctl import threadpool_limits

from minigpt.proof import training
from minigpt.proof.checks import INSTALL_TORCH, Check, gradient_checks, has_torch
from minigpt.proof.faults import FAULTS

ROW = "{:47}  {:8}  {:7}  {:18}  {:>9}  {:>9}  {}"


def gradcheck(quick: bool = False, write_line: Callable[[str], None] = print) -> bool:
    """Run all checks, write a line for each, and return whether all of them passed.

    With `quick`, the optimizer, training steps and planted faults are left out.
    """
    if has_torch():
        from minigpt.np import torch_primitives  # noqa: F401  # imports torch, so that its threads are limited as well
    with threadpool_limits(1):  # the arrays are small, and more threads would be slower
        return _run(quick, write_line)


def _run(quick: bool, write_line: Callable[[str], None]) -> bool:
    write_line(ROW.format("operation", "mask", "dtype", "reference", "abs error", "rel error", "result"))
    results = []
    for check in _checks(quick):
        write_line(_row(check))
        results.append(check.passed)
    if not quick:
        for fault in FAULTS:
            catcher = fault.caught_by()
            if catcher or has_torch():  # finite differences alone cannot catch every fault
                write_line(f"planted: {fault!s:70}  {f'caught by {catcher}' if catcher else 'NOT CAUGHT'}")
                results.append(catcher is not None)
    if not has_torch():
        write_line(INSTALL_TORCH)
    write_line(f"{len(results)} checks, {results.count(False)} failed")
    return all(results)


def _checks(quick: bool) -> Iterator[Check]:
    yield from gradient_checks()
    if has_torch() and not quick:
        yield from training.training_checks()


def _row(check: Check) -> str:
    result = "ok" if check.passed else f"FAILED: more than {check.tolerance:g}"
    found = (f"{check.absolute_error:.1e}", f"{check.relative_error:.1e}")
    return ROW.format(check.operation, check.mask, check.dtype, check.reference, *found, result)

"""Planted faults: mutations of the source, each of which some check must detect. planted.py lists them.

A fault replaces some text in the source of one function, in memory. If the source no longer contains the text, planting the fault
raises an error, so an outdated fault is noticed.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from minigpt.proof import tracing
from minigpt.proof.cases import all_cases
from minigpt.proof.checks import Check, compare_with_differences, compare_with_torch, has_torch
from minigpt.proof.orthogonalization import ITERATIONS, check_with_numpy, check_with_torch
from minigpt.proof.training import UPDATES, check_clip, check_updates


@dataclass(frozen=True)
class Fault:
    """A mutation: in the source of `function`, the text `original` is replaced by `mutated`."""

    description: str
    function: Callable[..., Any]
    original: str
    mutated: str
    area: str = "cases"
    "The checks that should detect the fault, and run first: cases, trace or training."

    def __str__(self) -> str:
        return f"{self.function.__qualname__}: {self.description}"

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Return a context manager inside which the function has the fault.

        Raises `ValueError` if the source does not contain `original` exactly once.
        """
        function = inspect.unwrap(self.function)
        source = textwrap.dedent(inspect.getsource(function))
        count = source.count(self.original)
        if count != 1:
            raise ValueError(f"{self}: the source contains {self.original!r} {count} times, but must contain it once")
        namespace = dict(function.__globals__)
        exec(compile(source.replace(self.original, self.mutated), f"<fault: {self.description}>", "exec"), namespace)
        code = function.__code__
        function.__code__ = inspect.unwrap(namespace[function.__name__]).__code__
        clear_cache = getattr(self.function, "cache_clear", lambda: None)  # discard cached results, here and after the fault
        clear_cache()
        try:
            yield
        finally:
            function.__code__ = code
            clear_cache()

    def caught_by(self) -> str | None:
        """Return the name of the first check that fails when the fault is planted, or None if all of them pass."""
        with self.planted(), np.errstate(all="ignore"):
            for name, check in _checks(self.area):
                try:
                    if not check().passed:
                        return name
                except (ValueError, IndexError, FloatingPointError):  # mismatched shapes also count as detected
                    return name
        return None


def _checks(first: str = "cases") -> Iterator[tuple[str, Callable[[], Check]]]:
    """Yield the name and the function of each check that must detect the faults: in float64, without training steps.

    Those of the area `first` come first, because they detect the faults of this area sooner.
    """
    areas = {"cases": _case_checks, "trace": _trace_checks, "training": _training_checks}
    return chain.from_iterable(areas[area]() for area in sorted(areas, key=lambda area: area != first))


def _case_checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    for case in all_cases():
        yield str(case), partial(compare_with_torch, case, np.float64) if has_torch() else partial(compare_with_differences, case)


def _trace_checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    for label in tracing.MODELS:
        if has_torch():
            yield f"trace, {label}", partial(tracing.compare_with_torch, label, np.float64)
        yield f"trace differences, {label}", partial(tracing.compare_with_differences, label)
        yield f"patched, {label}", partial(tracing.compare_patched_with_differences, label)
        yield f"sums, {label}", partial(tracing.check_sums, label)


def _training_checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    check_orthogonalize = check_with_torch if has_torch() else check_with_numpy
    yield from ((f"orthogonalize, {name}", partial(check_orthogonalize, name, np.float64)) for name in ITERATIONS)
    if has_torch():
        yield "clip", partial(check_clip, np.float64)
        yield from ((name, partial(check_updates, name, np.float64)) for name in UPDATES)

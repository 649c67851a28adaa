"""Run the examples in all docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import minigpt

MODULES = [module.name for module in pkgutil.walk_packages(minigpt.__path__, "minigpt.") if "torch" not in module.name]


@pytest.mark.parametrize("name", ["minigpt", *MODULES])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0

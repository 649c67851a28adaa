"""The house: who may import whom, what the package shows, and how it opens files."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import minigpt

SOURCE = Path(minigpt.__file__).parent
ROOT = Path(__file__).parents[1]
FILES = sorted(SOURCE.rglob("*.py"))
FLOORS = [{"np", "data"}, {"train", "generate", "interop"}, {"proof"}, {"report", "serve", "bench"}, {"cli", "__main__"}]


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


EACH_FILE = pytest.mark.parametrize("path", FILES, ids=name_of)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}, line {node.lineno}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """The sub-package or module of minigpt that a dotted name lies in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "minigpt" and len(parts) > 1 else None


def floor(name: str) -> int:
    return next((i for i, rooms in enumerate(FLOORS) if name in rooms), -1)


@EACH_FILE
def test_imports_only_run_down_the_floors(path: Path) -> None:
    own = path.relative_to(SOURCE).with_suffix("").parts[0]
    if own == "__init__":  # the front door shows what lies behind it
        return
    assert floor(own) >= 0, f"{own} stands on no floor"
    rooms = {r for module in imports(path) if (r := room(module)) and floor(r) >= 0}
    same = {own} if own in ("np", "data") else FLOORS[floor(own)]  # np and data do not know each other
    assert all(other in same or floor(other) < floor(own) for other in rooms), rooms


@pytest.mark.parametrize("path", [f for f in FILES if f.parent.name == "np"], ids=name_of)
def test_the_mathematics_needs_numpy_and_nothing_else(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "minigpt"} | ({"torch"} if path.name == "torch_primitives.py" else set())
    found = set(imports(path))
    assert {module.split(".")[0] for module in found} <= allowed
    assert all(room(module) in ("np", None) for module in found)


@EACH_FILE
def test_texts_are_opened_with_their_encoding_named(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "os":
            continue  # a file's number, not its text
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called not in ("open", "read_text", "write_text"):
            continue
        binary = any(isinstance(a, ast.Constant) and isinstance(a.value, str) and "b" in a.value for a in node.args[:2])
        named = any(keyword.arg == "encoding" for keyword in node.keywords)
        assert named or (called == "open" and binary), f"{name_of(path)}, line {node.lineno}: {called} without encoding"


@EACH_FILE
def test_nothing_is_pickled(path: Path) -> None:
    assert not {"pickle", "marshal", "shelve", "joblib", "dill"} & {module.split(".")[0] for module in imports(path)}


def test_the_public_names() -> None:
    assert set(minigpt.__all__) >= {"GPT", "ModelConfig", "load"}
    assert all(getattr(minigpt, name).__name__ == name for name in minigpt.__all__)
    with pytest.raises(AttributeError, match="module 'minigpt' has no attribute 'gpt'"):
        minigpt.gpt  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert minigpt.__version__ == project["version"]


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {requirement.split(">")[0].replace("-", "_") for requirement in project["dependencies"]}
    used = {module.split(".")[0] for path in FILES for module in imports(path)}
    assert used - set(sys.stdlib_module_names) - {"minigpt", "torch", "mpi4py"} == declared


@pytest.mark.parametrize("module", ["minigpt", "minigpt.cli", "minigpt.train.loop"])
def test_importing_is_light(module: str) -> None:
    heavy = [
        "tokenizers",
        "matplotlib",
        "huggingface_hub",
        "safetensors",
        "torch",
        *(["rich", "numpy"] if module == "minigpt" else []),
    ]
    script = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"

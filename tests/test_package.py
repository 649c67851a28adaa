"""The structure of the package: which module may import which, what is public, and how files are opened."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import minigpt

SOURCE = Path(minigpt.__file__).parent
ROOT = Path(__file__).parents[1]
FILES = sorted(SOURCE.rglob("*.py"))
Graph = Mapping[str, set[str]]
"Module -> the modules of minigpt that it imports."


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


EACH_FILE = pytest.mark.parametrize("path", FILES, ids=name_of)


def floors(document: str) -> dict[str, int]:
    """The floor of each subpackage, as the diagram in a document says."""
    lines = re.findall(r"^floor (\d)  ((?: *\w+/)+)", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    return {package: int(number) for number, packages in lines for package in re.findall(r"\w+", packages)}


FLOORS = floors("README.md") | {"__main__": 9}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}, line {node.lineno}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str | None:
    """The subpackage or top-level module of minigpt that a dotted name belongs to."""
    parts = module.split(".")
    return parts[1] if parts[0] == "minigpt" and len(parts) > 1 else None


def graph() -> Graph:
    """The imports between the modules of minigpt. The package's own `__init__` re-exports names, and is left out."""
    names = {
        ".".join(("minigpt", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path for path in FILES
    }
    return {
        name: {module for module in imports(path) if module in names and module not in (name, "minigpt")}
        for name, path in names.items()
        if name != "minigpt"
    }


EXCEPTIONS = {
    ("minigpt.np.model", "minigpt.interop.load"),  # GPT.from_pretrained
    ("minigpt.np.model", "minigpt.interop.hugging_face"),  # GPT.save_pretrained
    ("minigpt.np.model", "minigpt.data.tokenizer"),  # for type checkers only
}


def violations(graph: Graph) -> list[str]:
    """The imports that do not lead to a lower floor, and the cycles between modules, except for those in `EXCEPTIONS`."""
    graph = {module: {other for other in imported if (module, other) not in EXCEPTIONS} for module, imported in graph.items()}
    found = []
    for module, imported in graph.items():
        for other in sorted(imported):
            own, its = package_of(module) or "", package_of(other) or ""
            if own != its and FLOORS[its] >= FLOORS[own]:
                found.append(f"{module} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[its]})")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"cycle: {' -> '.join(error.args[1])}")
    return found


def test_imports_lead_to_a_lower_floor_and_form_no_cycle() -> None:
    assert violations(graph()) == []


def test_an_import_of_a_higher_floor_is_found() -> None:
    upward = violations({"minigpt.np.ops": {"minigpt.training.settings"}, "minigpt.np.norms": {"minigpt.data.corpus"}})
    assert [line.split(" (")[0] for line in upward] == ["minigpt.np.ops", "minigpt.np.norms"]


def test_a_cycle_inside_a_package_is_found() -> None:
    assert violations({"minigpt.np.a": {"minigpt.np.b"}, "minigpt.np.b": {"minigpt.np.a"}})[0].startswith("cycle: ")


def test_every_package_is_on_a_floor_of_the_diagrams() -> None:
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert set(floors("README.md")) == packages
    assert floors("docs/architecture.md") == floors("README.md")


@pytest.mark.parametrize("path", [f for f in FILES if f.parent.name == "np"], ids=name_of)
def test_np_depends_on_numpy_and_the_standard_library_alone(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "minigpt"} | ({"torch"} if path.name == "torch_primitives.py" else set())
    found = set(imports(path))
    assert {module.split(".")[0] for module in found} <= allowed
    own = f"minigpt.np.{path.stem}"
    assert all(
        package_of(module) in ("np", None)
        for module in found
        if not {(own, module), (own, module.rpartition(".")[0])} & EXCEPTIONS
    )


@EACH_FILE
def test_texts_are_opened_with_their_encoding_named(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "os":
            continue  # os.open returns a file descriptor, which has no encoding
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
    optional = {"torch", "mpi4py", "IPython"}  # IPython is imported in a notebook, which has it
    assert used - set(sys.stdlib_module_names) - {"minigpt"} - optional == declared


@pytest.mark.parametrize("module", ["minigpt", "minigpt.cli", "minigpt.training.trainer"])
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


def test_no_function_is_longer_than_sixty_lines() -> None:
    functions = [
        (node.end_lineno - node.lineno + 1, f"{name_of(path)}: {node.name}")
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]
    assert [name for lines, name in functions if lines > 60] == []

"""The documentation agrees with the code: quoted docstrings, links, anchors, paths and names.

A quote from a docstring in docs/derivations.md consists of a line "From the docstring of `dotted.name`:" and a text block, whose
lines must be consecutive lines of that docstring.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigpt
from minigpt import GPT, ModelConfig
from minigpt.np.config import QWEN3

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
CODE_FOLDERS = [ROOT, SOURCE / "minigpt", ROOT / "tests"]
"Paths in the documentation are relative to one of these folders."
FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", "reports", ".ci", ".github")

DERIVATIONS = ROOT / "docs/derivations.md"
DOCS = [ROOT / "README.md", *ROOT.glob("CONTRIBUTING.md"), *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples/README.md"]
EACH_DOC = pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)

QUOTE = re.compile(r"^From the docstring of `([\w.]+)`:\n\n```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def module(path: Path) -> ast.Module:
    return ast.parse(text(path))


def prose(path: Path) -> str:
    """Return the text of a Markdown file without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text(path), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a Markdown file, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield the name and the node of each function, class, variable and import defined in the body of a module or class."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((name.id, node) for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.If):  # if TYPE_CHECKING
            yield from definitions(node.body)


def find(node: ast.AST | None, name: str) -> ast.AST | None:
    """Return the definition of a dotted name in a module or class, or None."""
    for part in filter(None, name.split(".")):
        node = dict(definitions(node.body)).get(part) if isinstance(node, ast.Module | ast.ClassDef) else None
    return node


def find_dotted(name: str) -> ast.AST | None:
    """Return the module, class, function or variable of a name such as minigpt.np.ops.linear, or None."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        base = SOURCE.joinpath(*parts[:n])
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if path.exists():
            return find(module(path), ".".join(parts[n:]))
    return None


def docstring(name: str) -> str:
    node = find_dotted(name)
    assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef), f"{name} is not a module, class or function"
    return ast.get_docstring(node) or ""


def is_quoted(quote: str, source: str) -> bool:
    return f"\n{quote}\n" in f"\n{source}\n"


QUOTES = QUOTE.findall(text(DERIVATIONS))


@pytest.mark.parametrize(("name", "quote"), QUOTES, ids=[name for name, _ in QUOTES])
def test_quotes_are_lines_of_the_docstring(name: str, quote: str) -> None:
    assert is_quoted(quote, docstring(name)), f"docs/derivations.md quotes\n{quote}\nbut the docstring is\n{docstring(name)}"


def test_all_quotes_are_found() -> None:
    assert len(QUOTES) == text(DERIVATIONS).count("From the docstring of") >= 20


def test_a_changed_quote_is_noticed() -> None:
    source = "Summary.\n\ndx = dy * mask.\ndb = dy."
    assert is_quoted("dx = dy * mask.", source)
    assert is_quoted("dx = dy * mask.\ndb = dy.", source)
    assert not is_quoted("dx = dy", source)
    assert not is_quoted("dx = -dy * mask.", source)


def code_anchors() -> Iterator[tuple[str, str]]:
    """Yield (file, anchor) for each reference to the derivations, such as `derivations.md#clipping and #adamw`, in the code."""
    for folder in ("src", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__):
                for reference in re.findall(r"derivations\.md((?:(?:,| and|, and)?\s?#[\w-]+)+)", text(path)):
                    yield from ((path.relative_to(ROOT).as_posix(), anchor) for anchor in re.findall(r"#([\w-]+)", reference))


def test_anchors_in_the_code_are_headings() -> None:
    references = list(code_anchors())
    assert len(references) >= 15
    missing = [reference for reference in references if reference[1] not in anchors(DERIVATIONS)]
    assert not missing, missing


@EACH_DOC
def test_relative_links_exist(doc: Path) -> None:
    missing = []
    for _, link in LINK.findall(prose(doc)):
        if re.match(r"[a-z]+:", link):  # https:, mailto:
            continue
        target, _, anchor = link.partition("#")
        path = (doc.parent / target).resolve() if target else doc
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            missing.append(link)
    assert not missing, f"{doc.name}: {missing}"


@EACH_DOC
def test_names_in_link_texts_are_defined_in_the_linked_file(doc: Path) -> None:
    missing = []
    for label, link in LINK.findall(prose(doc)):
        path = doc.parent / link
        if path.suffix == ".py" and path.exists():
            names = [
                name.removeprefix(f"{path.stem}.") for name in re.findall(r"`([A-Za-z_][\w.]*)`", label) if name != path.name
            ]
            missing += [f"{name} in {link}" for name in names if find(module(path), name) is None]
    assert not missing, f"{doc.name}: {missing}"


@EACH_DOC
def test_paths_exist(doc: Path) -> None:
    """Paths that begin with a folder of the repository, and Python files, which may be named without their folder."""
    paths = re.findall(rf"(?<![\w./-])((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*\w)", text(doc))
    paths += re.findall(r"(?<![\w./*-])([\w./-]*\w\.py)\b", text(doc))
    missing = []
    for path in paths:
        is_there = any((folder / path).exists() for folder in CODE_FOLDERS) or (doc.parent / path).exists()
        if not is_there and ("/" in path or not any(any(folder.rglob(path)) for folder in CODE_FOLDERS[1:])):
            missing.append(path)
    assert not missing, f"{doc.name}: {sorted(set(missing))}"


@EACH_DOC
def test_dotted_names_exist(doc: Path) -> None:
    names = set(re.findall(r"\bminigpt(?:\.[A-Za-z_]\w*)+", text(doc)))
    missing = sorted(name for name in names if find_dotted(name) is None)
    assert not missing, f"{doc.name}: {missing}"


@EACH_DOC
def test_named_tests_exist(doc: Path) -> None:
    """A name that ends with "..." stands for every test that begins with it."""
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(module(path))
        if isinstance(node, ast.FunctionDef)
    }
    missing = []
    for name, dots in re.findall(r"\b(test_\w+)(\.\.\.)?(?!\w*\.py)", text(doc)):
        exists = any(test.startswith(name) for test in tests) if dots else name in tests
        if not exists:
            missing.append(name + dots)
    assert not missing, f"{doc.name}: {missing}"


def test_the_table_of_the_trace_quotes_the_code() -> None:
    """Each fragment is in the linked file, and the names are those of a trace (tests/np/test_trace.py has their shapes)."""
    rows = re.findall(r"^\| `([\w.{}]+)` \|.*$", text(ROOT / "docs/trace.md"), re.MULTILINE)
    fragments = re.findall(r"\[(\w+\.py)\]\((\S+)\): `([^`]+)`", text(ROOT / "docs/trace.md"))
    assert len(rows) == 23 and len(fragments) >= 18
    missing = [(name, code) for name, link, code in fragments if code not in text((ROOT / "docs" / link).resolve())]
    assert missing == []
    model = GPT(ModelConfig(vocab_size=9, context_length=4, d_model=8, n_layers=1, n_heads=2, **QWEN3))
    names = {name.replace("blocks.0", "blocks.{i}") for name in model.trace([[1, 2]]).names}
    assert set(rows) == names


def test_the_code_of_the_page_about_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes: dict[str, Any] = {"context_length": 64, "d_model": 24, "n_layers": 2, "n_heads": 3, "vocab_size": 400}
    minigpt.train(stories=50, steps=1, samples=0, eval_tokens=256, threads=1, quiet=True, **sizes)
    names: dict[str, Any] = {"print": lambda *_: None}
    for code in re.findall(r"^```python\n(.*?)^```$", text(ROOT / "docs/trace.md"), re.MULTILINE | re.DOTALL):
        exec(code, names)
    assert names["ablated"].loss != names["t"].loss != names["steered"].loss


def test_the_code_of_the_derivations() -> None:
    """`plain_attention` and its backward pass compute what minigpt computes, and the other examples run."""
    from minigpt.np.attention import attention, attention_backward

    names: dict[str, object] = {"np": np, "print": lambda *_: None}
    for code in re.findall(r"^```python\n(.*?)^```$", text(DERIVATIONS), re.MULTILINE | re.DOTALL):
        exec(code, names)
    plain_attention, plain_attention_backward = names["plain_attention"], names["plain_attention_backward"]
    assert callable(plain_attention)
    assert callable(plain_attention_backward)

    q, k, v, dy = np.random.default_rng(0).standard_normal((4, 7, 4))
    y, P = plain_attention(q, k, v)
    our_y, attention_cache = attention(q, k, v)
    np.testing.assert_allclose(our_y, y, rtol=1e-12)
    gradients = attention_backward(dy, attention_cache)
    for ours, plain in zip(gradients, plain_attention_backward(dy, q, k, v, P), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-14)

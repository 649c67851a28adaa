"""The files of the page: its modules, style sheets and the frame."""

import re
from importlib.resources import files

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_IMPORT = re.compile(r'^import (\{[^}]*\}|\* as \w+) from "\./([\w.]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:const|class|function)\*? (\w+))", re.MULTILINE)


def names() -> list[str]:
    """Return the names of the files of the page."""
    return sorted(file.name for file in (files("minigpt.page") / "static").iterdir() if file.name.rpartition(".")[2] in TYPES)


def read(name: str) -> str:
    """Return the text of a file of the page."""
    return (files("minigpt.page") / "static" / name).read_text(encoding="utf-8")


def bundle(name: str) -> str:
    """Return a module and all that it imports as one script: each becomes a function that returns what it exports.

    The modules of the page are written so that this is possible: an import is one line, and what is exported is declared there.
    """
    order: list[str] = []

    def visit(module: str) -> None:
        for _, imported in _IMPORT.findall(read(module)):
            if imported not in order:
                visit(imported)
        order.append(module)

    visit(name)
    return "const modules = {};\n" + "\n".join(map(_as_function, order))


def _as_function(name: str) -> str:
    source = read(name)
    exported = ", ".join(found for _, found in _EXPORT.findall(source))
    source = _IMPORT.sub(lambda match: f'const {match[1].removeprefix("* as ")} = modules["{match[2]}"];', source)
    return f'modules["{name}"] = (() => {{\n{_EXPORT.sub(lambda match: match[1], source)}\nreturn {{ {exported} }};\n}})();'

"""Tables as plain text."""

from collections.abc import Callable, Sequence


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Return a table as text: the first column is aligned at the left, and the others at the right.

    If the lines would be longer than `width`, the other columns are divided among several tables below each other.

    >>> print(aligned([("name", "size"), ("a", "1"), ("b", "23")]))
    name  size
    a        1
    b       23
    """
    first, *others = zip(*rows, strict=True)
    tables: list[list[list[str]]] = []
    used = 0
    for column in others:
        cells = _padded(column, str.rjust)
        if not tables or (width and used + 2 + len(cells[0]) > width):
            tables.append([_padded(first, str.ljust)])
            used = len(tables[-1][0][0])
        tables[-1].append(cells)
        used += 2 + len(cells[0])
    return "\n\n".join("\n".join("  ".join(line).rstrip() for line in zip(*table, strict=True)) for table in tables)


def _padded(column: Sequence[str], pad: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, column))
    return [pad(cell, width) for cell in column]


def cell(text: str, width: int, right: bool = False) -> str:
    """Return a text with a width in columns, to which it is padded or shortened.

    >>> cell("' photosynthesis'", 10)
    "' photosy…"
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding

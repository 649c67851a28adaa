"""Commands that report on runs."""

import shutil
import sys

from minigpt.cli.app import NonEmptyPath, app
from minigpt.cli.columns import aligned
from minigpt.data.printable import printable
from minigpt.runs.folder import find_run


@app.command
def report(run: str) -> None:
    """Write the report of a run again.

    Parameters
    ----------
    run
        Folder of the run, or its name in runs/.
    """
    from minigpt.report import write_report

    print(printable(f"Report: {write_report(find_run(run))} (and report.html)"))


@app.command
def compare(*runs: str, out: NonEmptyPath | None = None) -> None:
    """Compare runs: print the settings that differ and the results, and write a page with their curves.

    Parameters
    ----------
    runs
        Folders of two or more runs, or their names in runs/.
    out
        The page. [default: compare.html, or compare-2.html, ... if it exists]
    """
    from minigpt.report.compare import compare as read
    from minigpt.report.compare_page import write_page

    comparison = read([find_run(run) for run in runs])
    page = write_page(comparison, out)
    rows = [("", *comparison.names), *comparison.settings, ("",) * (1 + len(runs)), *comparison.results]
    print(printable(aligned(rows, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)))
    print(printable("\n".join(["", *comparison.notes, f"Page: {page}"])))

"""Commands that report on runs."""

from pathlib import Path

from minigpt.cli.app import app
from minigpt.data.printable import printable


@app.command
def report(run: Path) -> None:
    """Write the report of a run again.

    Parameters
    ----------
    run
        Folder of the run.
    """
    from minigpt.report import write_report

    print(printable(f"Report: {write_report(run)} (and report.html)"))

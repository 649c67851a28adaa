"""What a training run leaves for people to read: numbers in words, curves, stories, and how to repeat it."""

from pathlib import Path


def write_report(run: Path) -> Path:
    """Write `report.md`, `report.html` and `loss.svg` into the run folder `run`; returns the path of `report.md`.

    The run may be finished, interrupted or resumed. Raises `ValueError`, naming file and line, for a folder that is no
    run, one without a finished step, or a damaged file; then nothing is written.
    """
    from minigpt.data.atomic import write_whole
    from minigpt.report.content import describe
    from minigpt.report.curves import draw
    from minigpt.report.files import load_run
    from minigpt.report.pages import PICTURE, markdown, page

    loaded = load_run(run)
    content, svg = describe(loaded), draw(loaded)
    write_whole(run / PICTURE, svg)
    write_whole(run / "report.html", page(content, svg))
    write_whole(run / "report.md", markdown(content))
    return run / "report.md"

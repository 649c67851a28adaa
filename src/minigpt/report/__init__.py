"""Write the report of a training run: a summary, loss curves, generated samples, tables and the commands to reproduce it."""

from pathlib import Path


def write_report(run: Path) -> Path:
    """Write `report.md`, `report.html` and `loss.svg` into the run folder `run`; return the path of `report.md`.

    If the weights are there, report.html also shows what the model sees in the beginning of a story, at each snapshot.

    The run may be finished, interrupted or resumed. Raises `ValueError` with the file and the line if the folder is not a
    run, has no finished step, or contains a damaged file; in that case nothing is written.
    """
    from minigpt.data.atomic import atomic_write_text
    from minigpt.page.handout import story
    from minigpt.report.content import describe
    from minigpt.report.curves import draw
    from minigpt.report.files import load_run
    from minigpt.report.markdown import FIGURE, markdown
    from minigpt.report.pages import page

    loaded = load_run(run)
    content, svg, narrow_svg = describe(loaded), draw(loaded), draw(loaded, narrow=True)
    atomic_write_text(run / FIGURE, svg)
    atomic_write_text(run / "report.html", page(content, svg, narrow_svg, story(run)))
    atomic_write_text(run / "report.md", markdown(content))
    return run / "report.md"

"""Progress output: a live line on a terminal and in a notebook, plain lines elsewhere."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import wait_until
from rich.cells import cell_len
from rich.console import Console

from minigpt.training import progress
from minigpt.training.progress import Progress
from minigpt.training.trainer import Trainer

TrainTiny = Callable[..., str]


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def not_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JPY_PARENT_PID", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def record(step: int, **more: float | None) -> dict[str, Any]:
    return {"step": step, "tokens": 100 * step, "loss": 5.0 - step / 10, "tokens_per_s": 50.0, **more}


def validated(step: int) -> dict[str, Any]:
    return record(step, val_loss=4.2, val_bits_per_byte=1.75)


def console(file: io.StringIO, width: int = 60) -> Console:
    return Console(file=file, width=width)


def show(records: list[dict[str, Any]], file: io.StringIO | None = None, begin: tuple[int, float | None] = (0, None)) -> str:
    file = file or io.StringIO()
    with Progress(console(file), steps=20) as shown:
        shown.begin(*begin)
        for each in records:
            shown.update(each)
    return file.getvalue()


# ------------------------------------------------------ plain lines


def test_a_step_during_which_the_process_was_stopped_for_hours_is_shown() -> None:
    assert "step 1/20" in show([record(1, tokens_per_s=0.0)])  # the recorded speed is rounded


def test_lines_in_a_file_are_plain_and_not_wrapped() -> None:
    text = show([record(1), validated(10)], begin=(0, 1.5))
    assert text.splitlines() == [
        "step 1/20  0:38 left  loss 4.900  50 tokens/s",
        "step 10/20  0:20 left  loss 4.000  validation 4.200 at 10  1.750 bits/byte, 0.250 above the floor  50 tokens/s",
    ]


def test_a_loss_that_is_not_finite_is_shown() -> None:
    assert "loss not finite" in show([record(1, loss=None)])


def test_lines_are_printed_at_intervals_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    printed = io.StringIO()
    with Progress(console(printed), steps=20) as shown:
        for step, seconds in enumerate((1, 1, 8, 1, 1000, 20, 29, 5, 1), start=1):
            now += seconds
            shown.update(record(step))
    # ten seconds after step 1, at once after a long step, and then after 5% of the elapsed time; the last one in any case
    assert [line.split()[1] for line in printed.getvalue().splitlines()] == ["1/20", "4/20", "5/20", "8/20", "9/20"]


def test_a_run_of_ten_hours_prints_about_a_hundred_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "trend", lambda losses: "")
    printed = io.StringIO()
    with Progress(console(printed), steps=7200) as shown:
        for step in range(1, 7201):
            now += 5
            shown.update(record(step, loss=2.0))
    assert 80 <= len(printed.getvalue().splitlines()) <= 140


def test_a_long_first_step_prints_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_AFTER_S", 0.01)
    printed = io.StringIO()
    with Progress(console(printed), steps=20) as shown:
        with shown.activity("writing a sample"):
            wait_until(lambda: "writing a sample  0:0" in printed.getvalue(), printed.getvalue())
        shown.micro_batch(3, 16)
        wait_until(lambda: "step 1/20: 3 of 16 micro-batches  0:0" in printed.getvalue(), printed.getvalue())
        shown.update(record(1))
        with shown.activity("validating"):
            assert shown._reminder is None  # only before the first step


def test_a_first_step_that_takes_minutes_prints_how_far_it_is_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_AFTER_S", 0.01)
    monkeypatch.setattr(progress, "PLAIN_LINE_INTERVAL_S", 0.01)
    printed = io.StringIO()
    with Progress(console(printed), steps=20) as shown:
        for done in (1, 2, 3):
            shown.micro_batch(done, 16)
            wait_until(lambda done=done: f"step 1/20: {done} of 16 micro-batches" in printed.getvalue(), printed.getvalue())


def test_many_empty_lines_of_a_sample_are_printed_as_one() -> None:
    assert sample("a\n\n \n\nb\nc\n\nd", io.StringIO()).endswith("a\n\nb\nc\n\nd\n\n")


def test_a_fast_first_step_leaves_no_thread() -> None:
    printed = io.StringIO()
    with Progress(console(printed), steps=20) as shown:
        reminder = shown._reminder
        assert reminder is not None and reminder.is_alive()
        shown.update(record(1))
        assert not reminder.is_alive()
    assert len(printed.getvalue().splitlines()) == 1


def test_the_first_line_names_the_micro_batches_of_a_training(tmp_path: Path, train_tiny: TrainTiny, monkeypatch: Any) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Progress, "micro_batch", lambda shown, done, total: seen.append((done, total)))
    train_tiny(tmp_path / "run", steps=2, micro_batch=1, batch_size=6, samples=0)  # 2 workers with 3 micro-batches each
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)] * 2


@pytest.mark.parametrize("variable, value", [("JPY_PARENT_PID", "17"), ("TERM", "dumb")])
def test_a_terminal_that_cannot_update_a_line_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert show([record(1), record(2)], Terminal()) == show([record(1), record(2)])


def test_a_pipe_gets_plain_lines_even_if_colors_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in show([record(1), record(2)])


# ------------------------------------------------------ a terminal


def test_a_terminal_shows_a_live_line_and_keeps_the_lines_of_validations() -> None:
    text = show([record(1), record(2), validated(10)], Terminal())
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()
    assert "\x1b[2K" in text  # the live line is erased before it is printed again
    assert "━" in text
    kept = "step 10/20  0:20 left  loss 4.000  val 4.200 at 10  50 tok/s"  # as much as fits the width
    assert printed.count(kept) == 1


def test_the_live_line_leaves_room_for_the_echo_of_ctrl_c() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", show([], Terminal()))
    assert max(map(len, re.split(r"[\r\n]", text))) <= 60 - len("^C") - 1


def test_a_run_that_is_resumed_starts_its_bar_at_its_step() -> None:
    terminal = Terminal()
    with Progress(console(terminal), steps=20) as shown:
        pass
    assert "0%" in terminal.getvalue()
    terminal = Terminal()
    shown = Progress(console(terminal), steps=20)
    shown.begin(15, None)
    with shown:
        pass
    assert "75%" in terminal.getvalue() and "step 16/20" in terminal.getvalue()


def test_a_terminal_keeps_the_last_line_of_a_run_that_is_interrupted_and_its_cursor() -> None:
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(console(terminal), steps=20) as shown:
        shown.update(record(7))
        raise KeyboardInterrupt
    text = terminal.getvalue()
    assert re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", text).splitlines()[-1].startswith("step 7/20")
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert text.count(hidden) == 1 and text.count(visible) == 2  # visible at once, because the process may be killed


# ------------------------------------------------------ samples


def sample(text: str, file: io.StringIO | None = None, width: int = 20, prompt: str = "", short: bool = False) -> str:
    file = file or io.StringIO()
    Progress(console(file, width), steps=5).print_sample(1000, prompt, text, short)
    return file.getvalue()


def test_samples_in_a_file_are_printed_unchanged() -> None:
    text = " [bold]Mia[/bold] said: 12 :smile: and much more than a line\n"
    assert sample(text) == "\nSample after step 1,000:\n[bold]Mia[/bold] said: 12 :smile: and much more than a line\n\n"


def test_the_sample_before_training_has_its_own_heading() -> None:
    printed = io.StringIO()
    Progress(console(printed), steps=5).print_sample(0, "Once", " upon")
    assert printed.getvalue() == "\nSample before training:\nOnce upon\n\n"


@pytest.mark.parametrize("notebook", [False, True])
def test_samples_are_wrapped_at_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch, notebook: bool) -> None:
    if notebook:
        monkeypatch.setenv("JPY_PARENT_PID", "17")  # the output of !minigpt in a notebook
    text = sample(" [bold]Mia[/bold] said:\n\nand 12 :smile: more than a line", Terminal(), prompt="Once upon a time")
    assert text.split("1,000:\n")[1].splitlines()[:-1] == [
        "Once upon a time",
        "[bold]Mia[/bold]",
        "said:",
        "",
        "and 12 :smile: more",
        "than a line",
    ]


def test_other_text_is_wrapped_as_well() -> None:
    terminal, file = Terminal(), io.StringIO()
    for printed in (terminal, file):
        Progress(console(printed, width=20), steps=5).print_text("Data: storybook; 17 documents [for] training")
    assert terminal.getvalue() == "Data: storybook; 17\ndocuments [for]\ntraining\n"
    assert file.getvalue() == "Data: storybook; 17 documents [for] training\n"


def test_wide_characters_are_measured() -> None:
    lines = sample("光の中を 歩いていました とても", Terminal()).splitlines()[2:-1]
    assert len(lines) > 1 and all(cell_len(line) <= 20 for line in lines)


def test_a_wide_terminal_does_not_make_long_lines() -> None:
    assert max(map(len, sample("word " * 200, Terminal(), width=300).splitlines())) == 99


@pytest.mark.parametrize("file", [io.StringIO, Terminal])
def test_a_short_sample_has_about_three_lines_and_the_prompt(file: type[io.StringIO]) -> None:
    prompt = "Once upon a time " * 3
    shown = sample("word " * 200, file(), width=40, prompt=prompt, short=True)
    assert 2 * 40 < len(shown.split(":\n")[1].strip()) - len(prompt) <= 3 * 40 and shown.endswith("word…\n\n")
    assert sample("a\nb\nc\nd", file(), short=True).endswith("a\nb\nc…\n\n")
    assert sample("All of it.", file(), short=True).endswith("All of it.\n\n")
    assert sample("", file(), short=True).endswith(":\n\n\n")


def test_samples_during_training_are_short_and_those_at_the_end_are_not(
    tmp_path: Path, train_tiny: TrainTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "generate_sample", lambda trainer, prompt, seed: " word" * 100)
    printed = train_tiny(tmp_path / "run", steps=4, sample_every=2, samples=1, prompt="Tom")
    headings = ["Sample before training:", "Sample after step 2:", "Sample after step 4:"]
    shown = [printed.split(heading)[1].split("\n\n")[0].strip() for heading in headings]
    assert shown == ["Tom" + " word" * 44 + "…"] * 2 + ["Tom" + " word" * 100]

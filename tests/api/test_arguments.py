"""The arguments of minigpt.train: names, types, and their description."""

import inspect
import pydoc
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigpt
from minigpt.api.arguments import given_settings, in_python_terms
from minigpt.training.settings import Settings


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fail if an invalid argument is not refused before the training."""
    monkeypatch.chdir(tmp_path)

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the training was started")

    monkeypatch.setattr("minigpt.training.train.train", fail)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"stepz": 5}, "there is no setting 'stepz'; did you mean 'steps'?"),
        ({"quite": True}, "there is no setting 'quite'; did you mean 'quiet'?"),
        ({"bias": False}, "the setting bias is now attention_bias and feed_forward_bias"),
        ({"final_lr": 0.1}, "the setting final_lr is now min_lr_ratio"),
        ({"steps": "200"}, "steps is '200', but must be an integer"),
        ({"steps": 2.5}, "steps is 2.5, but must be an integer"),
        ({"steps": np.float64(2)}, "steps is 2.0, but must be an integer"),
        ({"steps": True}, "steps is True, but must be an integer"),
        ({"steps": np.array([3])}, "steps is array([3]), but must be an integer"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"lr": "0.1"}, "lr is '0.1', but must be a number"),
        ({"lr": float("nan")}, "lr is nan, but must be a finite number greater than 0"),
        ({"tied": 1}, "tied is 1, but must be true or false"),
        ({"seed": 1 << 70}, "seed is too large: integers in TOML have 64 bits"),
        ({"preset": "tine"}, "preset is 'tine', but must be one of: quick, "),
        ({"recipe": "gpt-2"}, "recipe is 'gpt-2', but must be one of: default, gpt2; did you mean 'gpt2'?"),
        ({"optimizer": "adamw"}, "optimizer is 'adamw', but lr is "),
        ({"muon_iteration": 5}, "there is no setting 'muon_iteration'; did you mean 'muon_iterations'?"),
        ({"preset": Path("tiny")}, "preset is PosixPath('tiny'), but must be a string"),
        ({"tokenizer": 5}, "tokenizer is 5, but must be a string"),
        ({"data": 5}, "data is 5, but must be storybook, tinystories, a file or folder of text, or a list of files and folders"),
        ({"data": ["a.txt", 5]}, "data is ['a.txt', 5], but must be storybook, "),
        ({"data": b"a.txt"}, "data is b'a.txt', but must be storybook, "),
        ({"data": {"a": 1}}, "data is {'a': 1}, but must be storybook, "),
        ({"data": []}, "data is (), but must be storybook, "),
        ({"data": "tiny"}, "no such file or folder: tiny; did you mean preset tiny?"),
        ({"out": 5}, "out is 5, but must be a path"),
        ({"out": ""}, "out is '', but must be a path"),
        ({"config": 5}, "config is 5, but must be a path"),
        ({"callback": 5}, "callback is 5, but must be a function of a step, its record and the model"),
        ({"resume": True}, "resume=True requires out, and cannot be combined with config or overwrite=True"),
        ({"out": "missing", "resume": True}, "missing cannot be resumed: it has no config.toml"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_a_value_error_that_names_it(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        minigpt.train(**arguments)
    assert str(caught.value).replace("WindowsPath", "PosixPath").startswith(message)


def test_a_run_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "run.json").touch()
    with pytest.raises(ValueError, match="mine is a run, not text: minigpt train --out runs/mine --resume resumes it"):
        minigpt.train("mine")


def test_numbers_of_numpy_and_paths_are_converted() -> None:
    given = given_settings(
        [Path("a") / "b.txt", "c.txt"],
        {"steps": np.int32(5), "lr": np.float64(0.1), "clip": 1, "tied": np.True_, "init": Path("run"), "prompt": np.str_("One")},
    )
    data = (str(Path("a") / "b.txt"), "c.txt")
    assert given == {"data": data, "steps": 5, "lr": 0.1, "clip": 1.0, "tied": True, "init": "run", "prompt": "One"}
    assert [type(value) for value in given.values()] == [tuple, int, float, float, bool, str, str]


def test_none_is_the_same_as_leaving_a_setting_out() -> None:
    assert given_settings(None, {"steps": None, "tokenizer": None}) == {}


def test_an_mpi_job_is_told_to_use_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ValueError, match="cannot be used in an MPI job: use the command `minigpt train`"):
        minigpt.train(steps=1)


def test_errors_name_arguments_and_not_flags() -> None:
    expected = "a already exists: resume it (resume=True), replace it (overwrite=True) or choose another out"
    assert in_python_terms("a already exists: resume it (--resume), replace it (--overwrite) or choose another --out") == expected
    assert in_python_terms("a smaller --lr may help, or --on-nonfinite skip") == "a smaller lr may help, or on_nonfinite skip"
    assert in_python_terms("no file a--lr.txt, --x or --") == "no file a--lr.txt, --x or --"
    assert in_python_terms("To resume: minigpt train --out a --resume") == "To resume: minigpt train --out a --resume"


def test_help_shows_every_setting_with_its_type_default_and_description() -> None:
    parameters = inspect.signature(minigpt.train).parameters
    assert set(parameters) >= {*Settings.__dataclass_fields__, "out", "resume", "callback", "quiet"}
    assert (parameters["steps"].default, parameters["steps"].annotation) == (Settings.steps, int)
    text = pydoc.plain(pydoc.render_doc(minigpt.train))
    assert text.index("Parameters") < text.index("batch_size : int\n") < text.index("Raises")
    for name, field in Settings.__dataclass_fields__.items():
        assert name == "data" or f"    {name} : {inspect.formatannotation(field.type)}\n" in text
    assert not re.search(r"--\w", text)  # names of arguments instead of flags
    names = list(parameters)
    assert names[:2] == ["data", "out"] and names.index("preset") < names.index("steps") < names.index("n_layers")

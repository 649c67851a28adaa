"""The command line: help, invalid arguments, exit codes."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from minigpt import __version__
from minigpt.training.settings import Settings

Result = tuple[int, str, str]
COMMANDS = ["train", "sample", "eval", "export", "import", "prepare", "report", "gradcheck", "bench", "info"]
WORDS = {
    None: COMMANDS,
    "train": ["--steps", "--n-layers", "--resume", "--val-data", "--init", "llama-tiny"],
    "sample": [
        *["--prompt-ids", "--greedy", "--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "-n", "--seed"],
        *["--stop", "--stop-token", "--overflow", "slide, refuse", "--show-probabilities"],
    ],
    "export": ["RUN", "DIRECTORY", "transformers"],
    "import": ["DIRECTORY", "RUN", "GPT-2 or Llama"],
    "eval": ["--data", "--json"],
    "info": ["Hugging Face directory"],
}


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(run: Callable[..., Result], command: str | None) -> None:
    code, out, err = run(*filter(None, [command]), "--help")
    assert (code, err) == (0, "")
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    assert "Usage:" in text
    assert [word for word in WORDS.get(command, []) if word not in text] == []


def test_help_names_every_setting(run: Callable[..., Result]) -> None:
    _, out, _ = run("train", "--help")
    assert [f.name for f in fields(Settings) if f"--{f.name.replace('_', '-')}" not in out] == []


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "minigpt", "--version"], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == __version__


# ----------------------------------------------------- invalid arguments

NOT_THERE = "is not a local folder, and cannot be downloaded from the hub ("
INVALID = [
    ("trian", 'Did you mean "train"?'),
    ("train --stepz 3", "Did you mean --steps?"),
    ("train --n-layer 3", "Did you mean --n-layers?"),
    ("sample RUN --temprature 1", "Did you mean --temperature?"),
    ("gradcheck --quik", "Did you mean --quick?"),
    ("train --activation gelo", 'Did you mean "gelu"?'),
    ("train --norm batch", 'Choose from: "layer", "rms"'),
    ("train --positions sine", 'Choose from: "learned", "rope"'),
    ("train --rope-pairing full", 'Choose from: "half", "interleaved"'),
    ("train --steps many", "'many' is not an integer"),
    ("train --n-kv-heads 1.5", "'1.5' is not an integer"),
    ("train --steps", "--steps requires an argument"),
    ("train --steps 0", "steps is 0, but must be at least 1"),
    ("train --preset tinny", "preset is 'tinny', but must be one of: quick, nano, tiny, small"),
    ("train --n-heads 7", "d_model is 128, but must be divisible by n_heads = 7"),
    ("train --n-kv-heads 3", "n_heads is 4, but must be divisible by n_kv_heads = 3"),
    ("train --n-kv-heads -1", "n_kv_heads is -1, but must be a positive integer"),
    ("train --positions rope --d-head 5", "d_head is 5, but must be even, because rope rotates pairs of columns"),
    ("train --rope-theta 0", "rope_theta is 0.0, but must be"),
    ("train --final-lr 6e-5", "--final-lr is now --min-lr-ratio: a fraction of --lr, from 0 to 1, not an absolute learning rate"),
    ("train --final-lr=0.1", "--final-lr is now --min-lr-ratio"),
    ("train --bias", "--bias is now --attention-bias --feed-forward-bias"),
    ("train --no-bias", "--no-bias is now --no-attention-bias --no-feed-forward-bias"),
    ("prepare --no-bias", "--no-bias is now --no-attention-bias --no-feed-forward-bias"),
    ("train --min-lr-ratio 6e-5", "min_lr_ratio is 6e-05, but must be 0 or from 0.001 to 1, because it is a fraction of lr"),
    ("train --lr nan", "lr is nan, but must be a finite number greater than 0"),
    ("train --data", "data is (), but must be storybook, tinystories, or files and folders of text"),
    ("train --data missing.txt", "no such file or folder: missing.txt"),
    ("train --config missing.toml", "missing.toml: No such file"),
    ("train --init runs/missing", "runs/missing holds no checkpoint"),
    ("train --init missing", f"missing {NOT_THERE}"),
    ("train --init RUN --n-layers 3", "n_layers is 3, but the model in RUN has 1"),
    ("train --resume", "--resume requires --out"),
    ("train --resume --out missing", "missing cannot be resumed: it has no config.toml"),
    ("train --resume --out RUN --overwrite", "and cannot be combined with --config or --overwrite"),
    ("train --out RUN", "RUN already exists: resume it (--resume), replace it (--overwrite)"),
    ("train extra", "extra"),
    ("sample", "requires an argument"),
    ("sample missing", f"missing {NOT_THERE}"),
    ("sample runs/missing", "runs/missing holds no checkpoint"),
    ("sample RUN --temperature -1", "temperature is -1"),
    ("sample RUN --temperature nan", "temperature is nan"),
    ("sample RUN --top-k -1", "top_k is -1, but must be at least 0"),
    ("sample RUN --top-p 0", "top_p is 0.0, but must be greater than 0 and at most 1"),
    ("sample RUN --top-p 2", "top_p is 2.0, but must be greater than 0 and at most 1"),
    ("sample RUN --min-p 2", "min_p is 2.0, but must be greater than 0 and at most 1"),
    ("sample RUN --min-p -0.1", "min_p is -0.1"),
    ("sample RUN --repetition-penalty 0", "repetition_penalty is 0.0, but must be finite and greater than 0"),
    ("sample RUN --max-new-tokens 0", "max_new_tokens is 0, but must be at least 1"),
    ("sample RUN --seed -1", "seed is -1"),
    ("sample RUN -n 0", "number is 0"),
    ("sample RUN -n 1.5", "'1.5' is not an integer"),
    ("sample RUN --overflow wrap", 'Choose from: "slide", "refuse"'),
    ("sample RUN --overflow refuse", "new tokens make 201, but the model's context_length is 16"),
    ("sample RUN --prompt-ids 1 257", "tokens holds ids 1 to 257, but must hold ids from 0 to 256"),
    ("sample RUN --prompt-ids 1 x", 'unable to convert "x" into int'),
    ("sample RUN --prompt-ids 1 --prompt Tom", "--prompt-ids cannot be combined with --prompt or --stop"),
    ("sample RUN --prompt-ids 1 --stop Tom", "--prompt-ids cannot be combined with --prompt or --stop"),
    ("sample RUN --stop-token 1.5", 'unable to convert "1.5" into int'),
    ("eval RUN --data missing.txt", "no such file or folder: missing.txt"),
    ("eval missing --data missing.txt", f"missing {NOT_THERE}"),
    ("report missing", "missing is not a run folder"),
    ("info missing", f"missing {NOT_THERE}"),
    ("info ./missing", "missing holds no checkpoint"),
    ("export RUN", "requires an argument"),
    ("export missing out", f"missing {NOT_THERE}"),
    ("export RUN RUN", "RUN already exists and is not an empty folder"),
    ("import RUN out", "is not a Hugging Face directory: it has no config.json"),
    ("import runs/missing out", "runs/missing holds no checkpoint"),
    ("import missing out", f"missing {NOT_THERE}"),
    ("import missing RUN", "RUN already exists"),
    ("prepare --data missing.txt", "no such file or folder: missing.txt"),
]


@pytest.mark.parametrize("line, message", INVALID, ids=[line for line, _ in INVALID])
def test_invalid_arguments_are_described_in_one_line(
    run: Callable[..., Result], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(str(trained) if word == "RUN" else word for word in line.split()))
    assert code == 2
    assert err.startswith("minigpt: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert message.replace("RUN", str(trained)) in err
    assert line.startswith("train") or out == ""  # training prints what it does until the error
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_a_command_runs_is_exit_code_1(
    run: Callable[..., Result], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.report.write_report", full)
    code, _, err = run("report", trained)
    assert (code, err) == (1, "minigpt: [Errno 28] No space left on device\n")


def test_a_loss_that_is_not_finite_is_exit_code_1(
    run: Callable[..., Result],
    flags: Callable[..., list[object]],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("minigpt.training.parallel.data_parallel.DataParallel.sum_gradients", lambda data_parallel: float("nan"))
    code, _, err = run("train", "--data", text_file, *flags(steps=2), "--out", tmp_path / "run")
    assert code == 1
    assert re.fullmatch(r"minigpt: step 1: the gradient's norm is not finite .*--lr may help, or --on-nonfinite skip\n", err)

"""The command line: help, invalid arguments, exit codes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from minigpt import __version__
from minigpt.cli import suggestions
from minigpt.cli.app import app
from minigpt.training.presets import QUICK, RECIPES
from minigpt.training.settings import Settings

Result = tuple[int, str, str]
COMMANDS = [
    *("train", "sample", "eval", "export", "import", "prepare", "report", "gradcheck", "bench", "info"),
    *("trace", "replay", "influence"),
]
WORDS = {
    None: COMMANDS,
    "train": ["--steps", "--n-layers", "--resume", "--val-data", "--init", "llama-tiny"],
    "sample": [
        *["--prompt-ids", "--greedy", "--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "-n", "--seed"],
        *["--stop", "--stop-token", "--overflow", "slide, refuse", "--show-probabilities"],
    ],
    "export": ["RUN", "DIRECTORY", "transformers"],
    "import": ["DIRECTORY", "RUN", "GPT-2, Llama or Qwen 3"],
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


DEFAULTS = [
    ("--recipe", "[default: default, or gpt2 with --init; depends on --preset]"),
    ("--lr", f"[default: {QUICK['lr']:g}, or 0.0003 with --init; depends on --preset and --recipe]"),
    ("--head-lr", f"[default: {RECIPES['default']['head_lr']:g}; depends on --recipe]"),
    ("--norm", "[default: rms; depends on --preset and --recipe]"),
    ("--steps", "[default: 2400; depends on --preset]"),
    ("--beta1", "[default: 0.9]"),
    ("--muon-iterations", f"[default: {Settings.muon_iterations}]"),
]


def test_help_says_what_the_defaults_depend_on(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    lines = run("train", "--help")[1].splitlines()
    for flag, default in DEFAULTS:
        (line,) = [line for line in lines if line.startswith(f"│ {flag} ")]
        assert default in line
    groups = [line.split("─")[1].strip() for line in lines if line.startswith("╭")]
    assert groups == [
        *("Common options", "Data", "Model", "Training", "Optimizer", "Validation, samples and saving", "Machine"),
    ]


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
    ("generate RUN", 'Unknown command "generate". Did you mean "sample"? `minigpt --help` lists the commands.'),
    ("evaluate RUN", 'Did you mean "eval"?'),
    ("help", "Did you mean `minigpt --help`?"),
    ("frobnicate", 'Unknown command "frobnicate". `minigpt --help` lists the commands.'),
    ("RUN", 'Unknown command "RUN". Did you mean `minigpt train RUN`?'),
    ("--steps 3", "Options come after a command, such as `minigpt train --steps`."),
    ("train --lr-schedule cosine", "Unknown option: --lr-schedule. Did you mean --schedule? "),
    ("train --recpie gpt2", "Unknown option: --recpie. Did you mean --recipe? "),
    ("train --recipe gpt-2", "recipe is 'gpt-2', but must be one of: default, gpt2; did you mean 'gpt2'?"),
    ("train --optimizer adamw", "the learning rate of muon: give lr, too, or the recipe gpt2"),
    ("train --optimizer adam", 'Invalid value "adam" for --optimizer. Choose from: "muon", "adamw". Did you mean "adamw"?'),
    ("train --leraning-rate 1", "Unknown option: --leraning-rate. Did you mean --lr? `minigpt train --help` lists the options."),
    ("train --learning_rate=1", "Unknown option: --learning_rate. Did you mean --lr?"),
    ("train --epochs 3", "Did you mean --steps (a number of batches, not of epochs)?"),
    ("train --layers 3", "Did you mean --n-layers?"),
    ("train --hidden-size 3", "Did you mean --d-model?"),
    ("train --block-size 3", "Did you mean --context-length?"),
    ("train --output x", "Did you mean --out?"),
    ("prepare --dataset x", "Did you mean --data?"),
    ("sample RUN --max-tokens 3", "Did you mean --max-new-tokens?"),
    ("sample RUN --learning-rate 3", "Unknown option: --learning-rate. `minigpt sample --help` lists the options."),
    ("gradcheck extra", "minigpt gradcheck takes fewer arguments; unexpected: extra"),
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
    ("train --n-kv-heads 3", "n_heads is 2, but must be divisible by n_kv_heads = 3"),
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
    ("train extra", "no such file or folder: extra"),
    (
        "train extra.txt --data other.txt",
        "text is given both as an argument (extra.txt) and with --data: give all of it in one way",
    ),
    ("train tiny", "no such file or folder: tiny; did you mean --preset tiny?"),
    ("train RUN", "RUN is a run, not text: minigpt train --out RUN --resume resumes it, and --init RUN starts from its weights"),
    ("train --resume RUN", "RUN is a run, not text: minigpt train --out RUN --resume resumes it"),
    ("train --out EMPTY", "Invalid value for --out: the path is empty"),
    ("train --config EMPTY", "Invalid value for --config: the path is empty"),
    ("train EMPTY", "the name of a text is empty"),
    ("train --data EMPTY", "the name of a text is empty"),
    ("train --init EMPTY", "init is empty: give a value, or leave the option out"),
    (
        "train --out RUN --resume --d-model 32",
        "d_model is 32, but the run was trained with 16: a resumed run keeps its architecture",
    ),
    ("prepare extra", "no such file or folder: extra"),
    ("prepare extra --data other", "text is given both as an argument (extra) and with --data"),
    ("sample", " is missing: there is no run in runs yet, and `minigpt train` trains one"),
    ("sample EMPTY", "the name of the run is empty, but must be the folder of a run, or its name in runs/"),
    ("eval EMPTY", "the name of the run is empty"),
    ("info EMPTY", "the name of the run is empty"),
    ("report EMPTY", "the name of the run is empty"),
    ("export RUN EMPTY", "the path is empty"),
    ("import RUN EMPTY", "the path is empty"),
    ("sample missing", f"missing {NOT_THERE}"),
    ("sample missing", "; there is no run in runs yet, and `minigpt train` trains one"),
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
    ("sample RUN Once --prompt Tom", "the prompt is given both as an argument ('Once') and with --prompt: give it in one way"),
    ("sample RUN Tom --prompt-ids 1", "--prompt-ids cannot be combined with --prompt or --stop"),
    ("sample RUN --prompt-ids 1 --prompt Tom", "--prompt-ids cannot be combined with --prompt or --stop"),
    ("sample RUN --prompt-ids 1 --stop Tom", "--prompt-ids cannot be combined with --prompt or --stop"),
    ("sample RUN --stop-token 1.5", 'unable to convert "1.5" into int'),
    ("eval RUN --data", "data is empty, but must be files or folders of text"),
    ("eval RUN missing.txt", "no such file or folder: missing.txt"),
    ("eval RUN missing.txt --data x", "text is given both as an argument (missing.txt) and with --data"),
    ("eval RUN --data missing.txt", "no such file or folder: missing.txt"),
    ("eval missing --data missing.txt", f"missing {NOT_THERE}"),
    ("report missing", "missing is not a run folder"),
    ("info missing", f"missing {NOT_THERE}"),
    ("info ./missing", "missing holds no checkpoint"),
    ("export RUN", "DIRECTORY is missing: `minigpt export --help` explains it"),
    ("import x", " is missing: `minigpt import --help` explains it"),
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
    code, out, err = run(*({"RUN": str(trained), "EMPTY": ""}.get(word, word) for word in line.split()))
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


# ------------------------------------------------------------ names of runs

RUN_COMMANDS = ["sample {}", "eval {}", "info {}", "report {}", "export {} out", "train --init {}", "train --resume --out {}"]


@pytest.fixture
def in_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run, as runs/storybook-quick in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs/storybook-quick")
    return Path("runs/storybook-quick")


@pytest.mark.parametrize("name", ["storybook-quik", "runs/storybook-quik", "Storybook-quick"])
@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_a_misspelled_run_is_suggested(run: Callable[..., Result], in_runs: Path, command: str, name: str) -> None:
    code, _, err = run(*command.format(name).split())
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("; did you mean runs/storybook-quick?\n") and name in err


@pytest.mark.parametrize("command", [*RUN_COMMANDS[:-1], "train --resume --steps 9 --out {}"])
def test_a_run_is_found_by_its_name_in_runs(
    run: Callable[..., Result], in_runs: Path, tmp_path: Path, command: str, text_file: Path
) -> None:
    words = command.format("storybook-quick").split()
    if "--init" in words:
        words += ["--data", str(text_file), "--steps", "1", "--threads", "1", "--out", "other"]
    code, _, err = run(*words)
    assert (code, err) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "out", "other"}


def test_a_run_named_after_the_built_in_stories_does_not_hide_them(
    run: Callable[..., Result], in_runs: Path, flags: Callable[..., list[object]]
) -> None:
    in_runs.rename("runs/storybook")
    code, out, err = run("train", "storybook", "--stories", 30, *flags(steps=1), "--out", "other", "--dry-run")
    assert (code, err) == (0, "") and "storybook (30 stories, seed 0)" in out


def test_without_a_name_the_newest_run_is_shown(run: Callable[..., Result], in_runs: Path) -> None:
    Path("runs/my run").mkdir()
    Path("runs/my run/run.json").touch()
    assert run("sample") == (2, "", "minigpt: RUN is missing, such as in: minigpt sample 'runs/my run'\n")


def test_every_other_name_belongs_to_an_option_or_a_command() -> None:
    """The tables of suggestions name nothing that does not exist, and no alias is itself an option."""
    options = {
        name for command in COMMANDS for argument in app[command].assemble_argument_collection() for name in argument.names
    }
    assert set(suggestions.OTHER_NAMES) <= options
    assert set(suggestions.OTHER_COMMANDS) <= set(COMMANDS)
    of_train = {name for argument in app["train"].assemble_argument_collection() for name in argument.names}
    aliases = {alias for name, others in suggestions.OTHER_NAMES.items() if name in of_train for alias in others}
    assert aliases & of_train == set()


def test_a_prompt_that_starts_with_a_hyphen(run: Callable[..., Result], trained: Path) -> None:
    code, _, err = run("sample", trained, "- Tom")
    assert (code, err) == (2, "minigpt: '- Tom' starts with a hyphen, as options do: give it as --prompt='- Tom'\n")
    code, out, _ = run("sample", trained, "--prompt=- Tom", "--max-new-tokens", 5)
    assert code == 0 and out.startswith("- Tom")

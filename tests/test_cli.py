"""The command line, as people and scripts use it."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minigpt import __version__, cli, load
from minigpt.proof import gradcheck
from minigpt.train.folder import RunFolder

Result = tuple[int, str, str]
COMMANDS = ["train", "sample", "eval", "prepare", "report", "gradcheck", "info"]
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process, and other pipes")
SETTINGS: dict[str, object] = {
    "tokenizer": "bytes",
    "context-length": 16,
    "d-model": 16,
    "n-layers": 1,
    "n-heads": 2,
    "batch-size": 4,
    "lr": 1e-2,
    "threads": 2,
    "eval-every": 4,
    "eval-tokens": 200,
    "checkpoint-every": 4,
    "sample-every": 0,
}


def flags(**changes: object) -> list[object]:
    """The settings of a tiny model as flags."""
    settings = SETTINGS | {name.replace("_", "-"): value for name, value in changes.items()}
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def minigpt(*arguments: object) -> list[str]:
    """The command, to be started as a process of its own."""
    return [sys.executable, "-c", "from minigpt.cli import main; main()", *map(str, arguments)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`run("sample", path, ...)`: exit code, stdout, stderr."""

    def call(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A run made by the command line."""
    path = tmp_path_factory.mktemp("runs") / "cli"
    command = minigpt("train", "--data", text_file, *flags(steps=8, dropout=0.1), "--out", path)
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    return path


# ----------------------------------------------------- every command once


def test_train_leaves_a_whole_run(trained: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    assert files >= {"config.toml", "tokenizer.json", "metrics.jsonl", "report.md", "report.html", "loss.svg"}
    assert (trained / "checkpoints" / "step-000008" / "model.safetensors").is_file()
    assert "--dropout 0.1" in json.loads((trained / "run.json").read_text(encoding="utf-8"))["command"]


def test_train_says_where_to_go_next(run: Callable[..., Result], text_file: Path, tmp_path: Path) -> None:
    code, out, err = run("train", "--data", text_file, *flags(steps=2), "--out", tmp_path / "my run")
    assert (code, err) == (0, "")
    assert f"More stories: minigpt sample {shlex.quote(str(tmp_path / 'my run'))}" in out


def test_train_finds_a_folder_of_its_own(
    run: Callable[..., Result], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("train", "--data", text_file, *flags(steps=1))[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["little-quick", "little-quick-2"]


def test_sample_is_decided_by_its_seed(run: Callable[..., Result], trained: Path) -> None:
    arguments = ("sample", trained, "--prompt", "Tom saw", "--max-new-tokens", 30)
    first, again, other = (run(*arguments, "--seed", seed) for seed in (3, 3, 4))
    assert first == again != other
    code, out, err = first
    assert (code, err) == (0, "")
    assert out.startswith("Tom saw")


def test_several_samples_have_seeds_that_count_up(run: Callable[..., Result], trained: Path) -> None:
    arguments = ("sample", trained, "--prompt", "Tom", "--max-new-tokens", 20)
    separate = [run(*arguments, "--seed", seed)[1] for seed in (5, 6)]
    _, together, _ = run(*arguments, "--seed", 5, "-n", 2)
    assert together == f"{'-' * 40}\n".join(separate)


def test_sample_stops_at_the_end_of_text(run: Callable[..., Result], trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load(trained)
    model.parameters["token_embedding"][...] = 0
    model.parameters["final_norm.beta"][...] = 1
    model.parameters["token_embedding"][tokenizer.end_of_text] = 1  # now the likeliest, always
    monkeypatch.setattr("minigpt.train.checkpoint.load", lambda run: (model, tokenizer))
    assert run("sample", trained, "--prompt", "Tom", "--temperature", 0) == (0, "Tom\n", "")


def test_top_k_of_zero_is_all_tokens(run: Callable[..., Result], trained: Path) -> None:
    everything = run("sample", trained, "--temperature", 3, "--top-k", 0, "--max-new-tokens", 30)
    assert everything == run("sample", trained, "--temperature", 3, "--top-k", 257, "--max-new-tokens", 30)
    assert everything != run("sample", trained, "--temperature", 3, "--top-k", 2, "--max-new-tokens", 30)


def test_eval_prints_json_for_scripts_and_a_line_for_people(run: Callable[..., Result], trained: Path, text_file: Path) -> None:
    code, out, err = run("eval", trained, "--data", text_file, "--json")
    result = json.loads(out)
    assert (code, err, set(result)) == (0, "", {"loss", "bits_per_byte", "tokens"})
    n_bytes = len(text_file.read_text(encoding="utf-8").replace("\n<|endoftext|>\n", "").encode())
    assert result["tokens"] == n_bytes + 60 - 1  # an end of text each; the first token is not predicted
    assert 1 < result["bits_per_byte"] < 8
    _, out, _ = run("eval", trained, "--data", text_file, "--threads", 1)
    loss, bits, tokens = result["loss"], result["bits_per_byte"], result["tokens"]
    assert out == f"loss {loss:.4f} nats per token, {bits:.4f} bits per byte, over {tokens:,} tokens\n"


def test_prepare_makes_the_data_ready(run: Callable[..., Result], text_file: Path) -> None:
    code, out, err = run("prepare", "--data", text_file, "--vocab-size", 300)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"training: 57 documents, [\d,]+ bytes, [\d,]+ tokens", lines[-4])
    assert re.fullmatch(r"validation: 3 documents, [\d,]+ bytes, [\d,]+ tokens", lines[-3])
    assert Path(lines[-1].removeprefix("folder: ")).is_dir()
    again = run("prepare", "--data", text_file, "--vocab-size", 300)[1]
    assert again.splitlines() == lines[-4:]  # found, not made


def test_report_is_written_again(run: Callable[..., Result], trained: Path) -> None:
    (trained / "report.md").unlink()
    code, out, err = run("report", trained)
    assert (code, err) == (0, "")
    assert (trained / "report.md").is_file()
    assert str(trained / "report.md") in out


def test_info_describes_the_machine_or_a_model(run: Callable[..., Result], trained: Path) -> None:
    _, out, _ = run("info")
    assert out.splitlines()[0].split() == ["minigpt", __version__]
    assert "numpy" in out
    _, out, _ = run("info", trained)
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (facts["d_model"], facts["dropout"], facts["vocab_size"]) == ("16", "0.1", "257")
    assert facts["checkpoint"].endswith("step-000008")


@pytest.mark.parametrize("passed, code", [(True, 0), (False, 1)])
def test_gradcheck_tells_the_shell_how_it_went(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, passed: bool, code: int
) -> None:
    asked = []
    monkeypatch.setattr(gradcheck, "gradcheck", lambda quick: asked.append(quick) or passed)
    assert run("gradcheck")[0] == run("gradcheck", "--quick")[0] == code
    assert asked == [False, True]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(run: Callable[..., Result], command: str | None) -> None:
    code, out, err = run(*filter(None, [command]), "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
    wanted = {None: COMMANDS, "train": ["--steps", "--n-layers", "--resume", "--val-data"], "sample": ["--top-k", "-n"]}
    assert all(word in out for word in wanted.get(command, []))


def test_help_names_every_setting(run: Callable[..., Result]) -> None:
    from dataclasses import fields

    from minigpt.train.settings import Settings

    _, out, _ = run("train", "--help")
    assert [f.name for f in fields(Settings) if f"--{f.name.replace('_', '-')}" not in out] == []


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


# ------------------------------------------------------- wrong questions

WRONG = [
    ("trian", 'Did you mean "train"?'),
    ("train --stepz 3", "Did you mean --steps?"),
    ("train --n-layer 3", "Did you mean --n-layers?"),
    ("sample RUN --temprature 1", "Did you mean --temperature?"),
    ("gradcheck --quik", "Did you mean --quick?"),
    ("train --activation gelo", 'Did you mean "gelu"?'),
    ("train --steps many", "'many' is not a whole number"),
    ("train --steps", "--steps requires an argument"),
    ("train --steps 0", "steps is 0, but must be at least 1"),
    ("train --preset tinny", "preset is 'tinny', but must be one of: quick, nano, tiny, small"),
    ("train --n-heads 7", "d_model is 128, which n_heads = 7 does not divide"),
    ("train --lr nan", "lr is nan, but must be a number greater than 0"),
    ("train --data", "data is (), but must be storybook, tinystories, or files and folders of text"),
    ("train --data missing.txt", "no such file or folder: missing.txt"),
    ("train --config missing.toml", "missing.toml: No such file"),
    ("train --resume", "--resume goes with --out RUN"),
    ("train --resume --out missing", "missing is not a run to resume"),
    ("train --resume --out RUN --overwrite", "--resume goes with --out RUN, and without --config and --overwrite"),
    ("train --out RUN", "RUN exists already: go on with it (--resume), replace it (--overwrite)"),
    ("train extra", "extra"),
    ("sample", "requires an argument"),
    ("sample missing", "missing holds no checkpoint"),
    ("sample RUN --temperature -1", "temperature is -1"),
    ("sample RUN --temperature nan", "temperature is nan"),
    ("sample RUN --top-k -1", "top_k is -1, but must be at least 0"),
    ("sample RUN --max-new-tokens 0", "max_new_tokens is 0, but must be at least 1"),
    ("sample RUN --seed -1", "seed is -1"),
    ("sample RUN -n 0", "number is 0"),
    ("eval RUN", "--data requires an argument"),
    ("eval RUN --data missing.txt", "no such file or folder: missing.txt"),
    ("eval missing --data missing.txt", "missing holds no checkpoint"),
    ("report missing", "missing is not the folder of a training run"),
    ("info missing", "missing holds no checkpoint"),
    ("prepare --data missing.txt", "no such file or folder: missing.txt"),
]


@pytest.mark.parametrize("line, answer", WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_question_gets_one_line(
    run: Callable[..., Result], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, answer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*(str(trained) if word == "RUN" else word for word in line.split()))
    assert code == 2
    assert err.startswith("minigpt: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert answer.replace("RUN exists", f"{trained} exists") in err
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_on_the_way_is_exit_code_1(
    run: Callable[..., Result], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.report.write_report", full)
    code, _, err = run("report", trained)
    assert (code, err) == (1, "minigpt: [Errno 28] No space left on device\n")


def test_a_loss_that_is_not_finite_is_exit_code_1(
    run: Callable[..., Result], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minigpt.train.parallel.Team.sum_gradients", lambda team: float("nan"))
    code, _, err = run("train", "--data", text_file, *flags(steps=2), "--out", tmp_path / "run")
    assert code == 1
    assert re.fullmatch(r"minigpt: step 1: the gradient's norm is not finite .*; a smaller --lr may help\n", err)


# ------------------------------------------------- again, stop and go on


def test_a_runs_config_repeats_it_bit_for_bit(run: Callable[..., Result], trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("train", "--config", trained / "config.toml", "--out", other)[0] == 0
    for name in ("config.toml", "tokenizer.json", "checkpoints/step-000008/model.safetensors"):
        assert (other / name).read_bytes() == (trained / name).read_bytes(), name
    losses = [[record["loss"] for record in RunFolder(path).records("metrics.jsonl")] for path in (trained, other)]
    assert losses[0] == losses[1]


def test_overwrite_replaces_a_run(run: Callable[..., Result], text_file: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", text_file, *flags(), "--out", tmp_path / "run")
    assert run(*arguments, "--steps", 3)[0] == 0
    assert run(*arguments, "--steps", 2, "--overwrite")[0] == 0
    assert len(RunFolder(tmp_path / "run").records("metrics.jsonl")) == 2


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the test."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_saves_and_the_printed_command_goes_on(
    run: Callable[..., Result], text_file: Path, tmp_path: Path, number: int, code: int
) -> None:
    path = tmp_path / "my run"
    settings = flags(steps=10**6, eval_every=10**6, checkpoint_every=10**6)
    with started(minigpt("train", "--data", text_file, *settings, "--out", path)) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("step "):
            assert line, process.stderr.read() if process.stderr else ""
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "\nStopping after this step; once more to stop at once, unsaved.\n")
    steps = [record["step"] for record in RunFolder(path).records("metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert (path / "checkpoints" / f"step-{len(steps):06d}" / "model.safetensors").is_file()
    command = shlex.split(out.splitlines()[-1].partition("To go on: ")[2])
    assert command[:2] == ["minigpt", "train"]
    assert run(*command[1:], "--steps", len(steps) + 2)[0] == 0
    assert len(RunFolder(path).records("metrics.jsonl")) == len(steps) + 2


@POSIX
def test_ctrl_c_while_telling_is_quiet(trained: Path) -> None:
    with started(minigpt("sample", trained, "--max-new-tokens", 10**6, "-n", 10**6)) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


@POSIX
def test_a_reader_that_goes_away_is_no_error(trained: Path) -> None:
    with started(minigpt("sample", trained, "-n", 10**6)) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
        process.wait(timeout=60)
        process.stdout = None  # so that nobody reads it again
    assert process.returncode == 141


@POSIX
def test_training_goes_on_when_the_reader_has_seen_enough(text_file: Path, tmp_path: Path) -> None:
    with started(minigpt("train", "--data", text_file, *flags(steps=6), "--out", tmp_path / "run")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
    assert len(RunFolder(tmp_path / "run").records("metrics.jsonl")) == 6
    assert (tmp_path / "run" / "checkpoints" / "step-000006" / "model.safetensors").is_file()


def test_a_run_that_cannot_begin_leaves_the_old_one(
    trained: Path, text_file: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    before = sorted(file.relative_to(path) for file in path.rglob("*"))
    code, _, err = run("train", "--data", text_file, *flags(context_length=100_000), "--out", path, "--overwrite")
    assert code == 2 and "context_length 100,000" in err
    assert sorted(file.relative_to(path) for file in path.rglob("*")) == before


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "minigpt", "--version"], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == __version__

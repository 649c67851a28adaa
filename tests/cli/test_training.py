"""The commands that train: their files, interruption and resumption."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.processes import has_ended, wait_until
from helpers.runs import content

from minigpt import load
from minigpt.proof import gradcheck
from minigpt.runs.folder import RunFolder
from minigpt.training.settings_file import read_settings

Result = tuple[int, str, str]
Run = Callable[..., Result]
Flags = Callable[..., list[object]]
Start = Callable[..., subprocess.Popen[str]]
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process, and other pipes")


def test_train_writes_a_complete_run(trained: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    assert files >= {"config.toml", "tokenizer.json", "metrics.jsonl", "report.md", "report.html", "loss.svg"}
    assert (trained / "checkpoints" / "step-000008" / "model.safetensors").is_file()
    assert "--dropout 0.1" in json.loads((trained / "run.json").read_text(encoding="utf-8"))["command"]


def test_train_says_which_recipe_it_uses(run: Run, text_file: Path, tmp_path: Path, flags: Flags) -> None:
    rates = ("--embedding-lr", 0.25, "--head-lr", 0, "--vector-lr", 0.125)
    code, out, err = run("train", "--data", text_file, *flags(steps=2), *rates, "--out", tmp_path / "default")
    assert (code, err) == (0, "")
    assert "Recipe: default; muon with learning rate 0.01 (embedding 0.25, vectors 0.125), linear schedule.\n" in out
    code, out, err = run("train", "--data", text_file, *flags(steps=2), "--recipe", "gpt2", "--out", tmp_path / "gpt2")
    assert (code, err) == (0, "")
    assert "Recipe: gpt2; adamw with learning rate 0.01, cosine schedule.\n" in out
    model = load(tmp_path / "gpt2")[0]
    assert model.parameters["blocks.0.attention.qkv.bias"].any()
    out = run("compare", tmp_path / "default", tmp_path / "gpt2", "--out", tmp_path / "page.html")[1]
    rows = {row[0]: row[1:] for row in map(str.split, out.splitlines()) if len(row) == 3}
    assert (rows["recipe"], rows["optimizer"], rows["norm"]) == (["default", "gpt2"], ["muon", "adamw"], ["rms", "layer"])
    assert (rows["embedding_lr"], rows["momentum"], rows["head_lr"]) == (["0.25", "0.01"], ["0.9", "-"], ["0.01", "-"])
    assert "lr" not in rows


@pytest.mark.parametrize(
    "words, message",
    [
        (("--recipe", "gpt2"), r"minigpt: d_ff is 64 \(recipe gpt2\), but the run was trained with 48: a resumed run keeps"),
        *[
            (
                words,
                "minigpt: optimizer is 'adamw', but the run was trained with 'muon': a resumed run keeps its optimizer; start a ",
            )
            for words in (("--optimizer", "adamw", "--lr", 0.001), ("--optimizer", "adamw"))
        ],
    ],
)
def test_a_resumed_run_keeps_its_form_and_its_optimizer(run: Run, trained: Path, words: tuple[object, ...], message: str) -> None:
    before = content(trained)
    for more in ((), ("--dry-run",)):
        code, _, err = run("train", "--out", trained, "--resume", "--steps", 20, *words, *more)
        assert code == 2 and re.match(message, err), err
    assert content(trained) == before


def test_train_prints_the_next_command(run: Run, text_file: Path, tmp_path: Path, flags: Flags) -> None:
    code, out, err = run("train", "--data", text_file, *flags(steps=2), "--out", tmp_path / "my run")
    assert (code, err) == (0, "")
    assert f"To generate text: minigpt sample {shlex.quote(str(tmp_path / 'my run'))}" in out


def test_files_without_an_option_are_the_text(
    run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: Flags
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("foo.txt", "bar.txt"):
        shutil.copy(text_file, name)
    assert run("train", "foo.txt", "bar.txt", *flags(steps=1), "--out", "run")[0] == 0
    assert run("train", *flags(steps=1), "--resume", "--out", "run", "foo.txt", "bar.txt")[0] == 0
    assert read_settings(Path("run/config.toml"))["data"] == ("foo.txt", "bar.txt")
    code, out, err = run("prepare", "foo.txt", "--tokenizer", "bytes")
    assert (code, err) == (0, "") and "training: 57 documents" in out
    assert out.splitlines()[-4:] == run("prepare", "--data", "foo.txt", "--tokenizer", "bytes")[1].splitlines()


def test_tinystories_without_an_option(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download() -> None:
        raise ValueError("downloads TinyStories")

    monkeypatch.setattr("minigpt.data.tinystories.download", download)
    assert run("train", "tinystories", "--out", tmp_path / "run")[::2] == (2, "minigpt: downloads TinyStories\n")


def test_train_chooses_an_unused_folder(
    run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: Flags
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("train", "--data", text_file, *flags(steps=1))[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["little-quick", "little-quick-2"]


def test_every_model_flag_reaches_the_model(run: Run, flags: Flags, text_file: Path, tmp_path: Path) -> None:
    model = {"norm": "rms", "positions": "rope", "rope_pairing": "interleaved", "rope_theta": 77.0, "n_kv_heads": 1, "d_head": 6}
    model |= {"activation": "swiglu", "norm_epsilon": 1e-3, "d_ff": 20}
    words = [*flags(steps=1, **model), "--qk-norm", "--no-attention-bias", "--no-feed-forward-bias", "--no-tied"]
    assert run("train", "--data", text_file, *words, "--out", tmp_path / "run")[0] == 0
    config = asdict(load(tmp_path / "run")[0].config)
    expected = {
        **model,
        "qk_norm": True,
        "attention_bias": False,
        "feed_forward_bias": False,
        "tied": False,
        "norm_placement": "pre",
        "d_model": 16,
    }
    assert {name: config[name] for name in expected} == expected
    assert run("sample", tmp_path / "run", "--max-new-tokens", 3)[0] == 0


def test_a_llama_preset_makes_a_llama(run: Run, text_file: Path, tmp_path: Path) -> None:
    words = ["--preset", "llama-tiny", "--tokenizer", "bytes", "--steps", 1, "--batch-size", 1, "--context-length", 16]
    assert run("train", "--data", text_file, *words, "--threads", 1, "--out", tmp_path / "run")[0] == 0
    config = load(tmp_path / "run")[0].config
    assert (config.norm, config.positions, config.activation) == ("rms", "rope", "swiglu")
    assert not config.attention_bias and not config.feed_forward_bias
    assert (config.d_ff, config.n_kv_heads, config.n_layers) == (344, 2, 4)
    assert run("export", tmp_path / "run", tmp_path / "exported")[0] == 0
    assert json.loads((tmp_path / "exported" / "config.json").read_text(encoding="utf-8"))["intermediate_size"] == 344


TUNING = {"d_model": None, "n_layers": None, "n_heads": None, "context_length": None, "tokenizer": None, "lr": None}


@pytest.mark.parametrize("kind", ["run", "directory"])
def test_init_starts_from_a_model(run: Run, flags: Flags, trained: Path, text_file: Path, tmp_path: Path, kind: str) -> None:
    init = trained
    if kind == "directory":
        init = tmp_path / "my directory"
        run("export", trained, init)
    out = tmp_path / "out"
    code, _, err = run("train", "--init", init, "--data", text_file, *flags(**TUNING, steps=2), "--out", out)
    assert (code, err) == (0, "")
    before, after = (RunFolder(path).records("metrics.jsonl") for path in (trained, out))
    assert after[0]["loss"] < before[0]["loss"] - 0.5
    assert (out / "report.md").is_file()
    assert read_settings(out / "config.toml")["lr"] == 3e-4
    code, _, err = run(
        "train", "--init", init, "--data", text_file, *flags(**TUNING | {"n_layers": 2}), "--out", tmp_path / "none"
    )
    assert (code, err) == (2, f"minigpt: n_layers is 2, but the model in {init} has 1\n")
    assert run("train", "--out", out, "--resume", "--steps", 3)[0] == 0


def test_init_without_a_tokenizer_needs_one(run: Run, directory: Path, text_file: Path, tmp_path: Path) -> None:
    words = ("train", "--init", directory, "--data", text_file, "--out", tmp_path / "out", "--steps", 1)
    code, _, err = run(*words)
    assert (code, err) == (2, f"minigpt: {directory} has no tokenizer: give one with --tokenizer\n")
    code, _, err = run(*words, "--tokenizer", "bytes")
    assert (code, err) == (2, f"minigpt: the tokenizer has 257 ids, but the model in {directory} has 37\n")
    assert not (tmp_path / "out").exists()


def test_training_uses_what_prepare_made_with_init(
    run: Run, trained: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    assert "vocabulary: 257\n" in run("prepare", "--init", trained, "--data", text_file)[1]
    assert run("train", "--init", trained, "--data", text_file, "--steps", 1, "--out", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_prepare_fills_the_cache(run: Run, text_file: Path) -> None:
    code, out, err = run("prepare", "--data", text_file, "--vocab-size", 300)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"training: 57 documents, [\d,]+ bytes, [\d,]+ tokens", lines[-4])
    assert re.fullmatch(r"validation: 3 documents, [\d,]+ bytes, [\d,]+ tokens \(every 20th document\)", lines[-3])
    assert Path(lines[-1].removeprefix("folder: ")).is_dir()
    again = run("prepare", "--data", text_file, "--vocab-size", 300)[1]
    assert again.splitlines() == lines[-4:]  # read from the cache


def test_report_is_written_again(run: Run, trained: Path) -> None:
    (trained / "report.md").unlink()
    code, out, err = run("report", trained)
    assert (code, err) == (0, "")
    assert (trained / "report.md").is_file()
    assert str(trained / "report.md") in out


@pytest.mark.parametrize("passed, code", [(True, 0), (False, 1)])
def test_the_exit_code_of_gradcheck(run: Run, monkeypatch: pytest.MonkeyPatch, passed: bool, code: int) -> None:
    calls = []

    def stub(quick: bool, verbose: bool) -> bool:
        calls.append((quick, verbose))
        return passed

    monkeypatch.setattr(gradcheck, "gradcheck", stub)
    assert run("gradcheck")[0] == run("gradcheck", "--quick")[0] == run("gradcheck", "--verbose")[0] == code
    assert calls == [(False, False), (True, False), (False, True)]


# ------------------------------------------- repeat, interrupt and resume


def test_the_config_of_a_run_repeats_it_bit_for_bit(run: Run, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("train", "--config", trained / "config.toml", "--out", other)[0] == 0
    for name in ("config.toml", "tokenizer.json", "checkpoints/step-000008/model.safetensors"):
        assert (other / name).read_bytes() == (trained / name).read_bytes(), name
    losses = [[record["loss"] for record in RunFolder(path).records("metrics.jsonl")] for path in (trained, other)]
    assert losses[0] == losses[1]


def test_overwrite_replaces_a_run(run: Run, text_file: Path, tmp_path: Path, flags: Flags) -> None:
    arguments = ("train", "--data", text_file, *flags(), "--out", tmp_path / "run")
    assert run(*arguments, "--steps", 3)[0] == 0
    assert run(*arguments, "--steps", 2, "--overwrite")[0] == 0
    assert len(RunFolder(tmp_path / "run").records("metrics.jsonl")) == 2


def test_a_run_that_cannot_start_does_not_delete_the_old_one(
    trained: Path, text_file: Path, tmp_path: Path, run: Run, flags: Flags
) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    before = sorted(file.relative_to(path) for file in path.rglob("*"))
    code, _, err = run("train", "--data", text_file, *flags(context_length=100_000), "--out", path, "--overwrite")
    assert code == 2 and "context_length 100,000" in err
    assert sorted(file.relative_to(path) for file in path.rglob("*")) == before


@POSIX
@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_the_run_and_the_printed_command_resumes_it(
    run: Run, start: Start, flags: Flags, text_file: Path, tmp_path: Path, name: str, code: int
) -> None:
    path = tmp_path / "my run"
    settings = flags(steps=10**6, eval_every=10**6, checkpoint_every=10**6)
    process = start("train", "--data", text_file, *settings, "--out", path)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("step "):
        assert line, process.stderr.read() if process.stderr else ""
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        code,
        "\nStopping after this step. Interrupt again (Ctrl-C) to stop immediately without saving.\n",
    )
    steps = [record["step"] for record in RunFolder(path).records("metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert (path / "checkpoints" / f"step-{len(steps):06d}" / "model.safetensors").is_file()
    command = shlex.split(out.splitlines()[-1].partition("To resume: ")[2])
    assert command[:2] == ["minigpt", "train"]
    assert run(*command[1:], "--steps", len(steps) + 2)[0] == 0
    assert len(RunFolder(path).records("metrics.jsonl")) == len(steps) + 2


@POSIX
def test_training_continues_after_its_output_is_closed(start: Start, flags: Flags, text_file: Path, tmp_path: Path) -> None:
    process = start("train", "--data", text_file, *flags(steps=6), "--out", tmp_path / "run")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert_complete(tmp_path / "run", steps=6)


def assert_complete(run: Path, steps: int) -> None:
    """Assert that a run has completed that many steps, and has a checkpoint of the last one and a report."""
    assert len(RunFolder(run).records("metrics.jsonl")) == steps
    assert (run / "checkpoints" / f"step-{steps:06d}" / "model.safetensors").is_file()
    assert (run / "report.md").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_training_continues_if_its_output_cannot_be_written(
    minigpt: Callable[..., list[str]], flags: Flags, text_file: Path, tmp_path: Path
) -> None:
    command = minigpt("train", "--data", text_file, *flags(steps=6), "--out", tmp_path / "run")
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert subprocess.run(command, stdout=full, stderr=full, timeout=60, check=False).returncode == 0
        assert_complete(tmp_path / "run", steps=6)
        assert subprocess.run(command, stdout=full, stderr=full, timeout=60, check=False).returncode == 2  # the run exists


@pytest.fixture
def on_terminal(minigpt: Callable[..., list[str]]) -> Iterator[Callable[..., tuple[int, int]]]:
    """`on_terminal("train", ...)` starts a command on a terminal of its own; returns its process id and the terminal."""
    started = []

    def start(*arguments: object, hangup: bool) -> tuple[int, int]:
        import pty

        pid, terminal = pty.fork()
        if not pid:
            os.environ["TERM"] = "xterm"
            if not hangup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
            command = minigpt(*arguments)
            os.execv(command[0], command)
        started.append(pid)
        return pid, terminal

    yield start
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at a process in /proc")
@pytest.mark.parametrize("hangup", [False, True])
def test_a_terminal_that_is_closed_loses_no_step(
    on_terminal: Callable[..., tuple[int, int]], flags: Flags, text_file: Path, tmp_path: Path, hangup: bool
) -> None:
    path = tmp_path / "run"
    settings = flags(steps=10**6 if hangup else 150, eval_every=10**6, checkpoint_every=10**6)
    pid, terminal = on_terminal("train", "--data", text_file, *settings, "--out", path, hangup=hangup)
    shown = b""
    while b"tokens/s" not in shown:  # the live line
        shown += os.read(terminal, 4096)
    os.close(terminal)
    wait_until(lambda: has_ended(pid), "the training has not ended")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = len(RunFolder(path).records("metrics.jsonl"))
    assert (code, steps == 150) == (129, False) if hangup else (0, True)
    assert (path / "checkpoints" / f"step-{steps:06d}" / "model.safetensors").is_file()

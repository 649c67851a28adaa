"""The data of training, evaluation and prepare as a user gives it, and the command tokens."""

import gzip
import io
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.data.tokenizer import Tokenizer
from minigpt.training.settings import Settings

Run = Callable[..., tuple[int, str, str]]
Flags = Callable[..., list[object]]
BOOK = "\n\n".join(f"Chapter {i}: it was a dark and stormy night.\nThe end of chapter {i}." for i in range(60))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the text book.txt, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    Path("book.txt").write_text(BOOK, encoding="utf-8")
    return tmp_path


@pytest.fixture
def quick(flags: Flags) -> list[object]:
    """The flags of a training run of two steps."""
    return flags(steps=2, threads=1)


def give(monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    """Set standard input."""
    content = content.encode() if isinstance(content, str) else content
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


# --- one plain text file


@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz"])
def test_one_plain_text_file_trains(run: Run, quick: list[object], name: str) -> None:
    if name.endswith(".gz"):
        Path(name).write_bytes(gzip.compress(BOOK.encode()))
    code, out, err = run("train", "--data", name, *quick)
    assert (code, err) == (0, "")
    assert f"{name} is a single document: its last tenth is held out for validation (" in out
    assert "1 document for validation (the last tenth of the text); " in " ".join(out.split())
    metadata = json.loads(Path("runs/book-quick/run.json").read_text(encoding="utf-8"))
    assert metadata["data"]["held_out"] == "the last tenth of the text"
    assert run("eval", "runs/book-quick", "--threads", 1)[0] == 0


def test_a_run_without_the_new_record_can_be_resumed(run: Run, quick: list[object]) -> None:
    assert run("train", "--data", "book.txt", *quick, "--out", "out")[0] == 0
    metadata = json.loads(Path("out/run.json").read_text(encoding="utf-8"))
    del metadata["data"]["held_out"]
    Path("out/run.json").write_text(json.dumps(metadata), encoding="utf-8")
    code, out, err = run("train", "--out", "out", "--resume", "--steps", 3)
    assert (code, err) == (0, "") and "Resuming after step 2" in out
    assert json.loads(Path("out/run.json").read_text(encoding="utf-8"))["data"]["held_out"] == "the last tenth of the text"


def test_prepare_says_what_is_held_out_also_from_the_cache(run: Run) -> None:
    for first in (True, False):
        code, out, err = run("prepare", "--data", "book.txt", "--tokenizer", "bytes")
        assert (code, err) == (0, "")
        assert ("is a single document" in out) == first
        assert re.search(r"^validation: 1 document, .* tokens \(the last tenth of the text\)$", out, re.MULTILINE)


# --- standard input


@pytest.mark.parametrize("words", [("train", "-"), ("train", "--data", "-"), ("train", "--data=-")], ids=" ".join)
def test_standard_input_trains_and_resumes(
    run: Run, quick: list[object], here: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    give(monkeypatch, BOOK)
    code, _, err = run(*words, *quick)
    assert (code, err) == (0, "")
    config = Path("runs/stdin-quick/config.toml").read_text(encoding="utf-8")
    (kept,) = (here / "cache" / "stdin").iterdir()
    assert kept.read_text(encoding="utf-8") == BOOK and str(kept) in config
    give(monkeypatch, "")
    code, out, err = run("train", "--out", "runs/stdin-quick", "--resume", "--steps", 3)
    assert (code, err) == (0, "") and "Resuming after step 2" in out


def test_a_pipe_and_a_file_are_read(minigpt: Callable[..., list[str]], here: Path) -> None:
    with open("book.txt", "rb") as file:
        done = subprocess.run(minigpt("prepare", "-", "--tokenizer", "bytes"), stdin=file, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "validation: 1 document" in done.stdout
    content = BOOK.encode()
    piped = subprocess.run(minigpt("prepare", "--data", "-", "--tokenizer", "bytes"), input=content, capture_output=True)
    assert piped.stdout.decode().splitlines()[-4:] == done.stdout.splitlines()[-4:]
    assert len(list((here / "cache" / "stdin").iterdir())) == 1


def test_eval_reads_standard_input(run: Run, trained: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = json.loads(run("eval", trained, "--data", text_file, "--json", "--threads", 1)[1])
    give(monkeypatch, text_file.read_bytes())
    found = json.loads(run("eval", trained, "--data", "-", "--json", "--threads", 1)[1])
    assert found | {"data": 0} == expected | {"data": 0}


def test_an_empty_standard_input_is_refused(run: Run, quick: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "")
    assert run("train", "-", *quick) == (2, "", "minigpt: standard input (-) is empty, but must contain a text\n")
    assert not Path("runs").exists()


# --- folders, fields and characters


def test_what_is_skipped_in_a_folder_is_said(run: Run, trained: Path) -> None:
    for name in ("notes/a.txt", "notes/b.txt", "notes/c.md", "notes/.ipynb_checkpoints/a.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("Tom saw a cat.", encoding="utf-8")
    line = "notes/: 2 text files; skipped 1 other file (1 .md) and 1 hidden one\n"
    code, out, err = run("prepare", "notes", "--tokenizer", "bytes")
    assert (code, err) == (0, "") and out.count(line) == 1 and "validation: 1 document," in out
    code, out, err = run("eval", trained, "--data", "notes", "--threads", 1, "--json")
    assert code == 0 and line in err and json.loads(out)["tokens"]


def test_the_field_of_records_is_chosen(run: Run, quick: list[object]) -> None:
    lines = [json.dumps({"title": "t", "body": f"{text} ran home."}) for text in ("Tom", "Mia", "Zoë")]
    Path("a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    message = 'minigpt: a.jsonl, line 1: the record has no field "text", only "title", "body": choose one with --field\n'
    assert run("train", "a.jsonl", *quick, "--out", "out")[::2] == (2, message)
    assert not Path("out").exists()
    code, out, err = run("train", "a.jsonl", "--field", "body", *quick, "--out", "out")
    assert (code, err) == (0, "") and "2 documents for training" in " ".join(out.split())
    assert run("eval", "out", "--threads", 1)[0] == 0  # the validation text of the run
    assert run("eval", "out", "--data", "a.jsonl", "--threads", 1)[::2] == (2, message)
    assert run("eval", "out", "--data", "a.jsonl", "--field", "body", "--threads", 1)[0] == 0


def test_a_prompt_that_cannot_be_encoded_is_refused_before_the_first_step(run: Run, flags: Flags) -> None:
    words = flags(steps=2, threads=1, tokenizer="char")
    code, _, err = run("train", "--data", "book.txt", *words, "--prompt", "Zürich", "--out", "deep/out")
    assert code == 2
    assert err.startswith("minigpt: prompt is 'Zürich', but the character 'Z' (U+005A) is not among the ")
    assert not Path("deep").exists()


def test_an_unknown_character_is_named_by_file_and_line(run: Run, flags: Flags) -> None:
    words = flags(steps=2, threads=1, tokenizer="char")
    text = BOOK + "\n\nÜber."
    Path("over.txt").write_text(text, encoding="utf-8")
    code, _, err = run("train", "--data", "over.txt", *words, "--out", "out")
    line = text.count("\n") + 1
    assert code == 2 and err.startswith(f"minigpt: over.txt, line {line}: the character 'Ü' (U+00DC) is not among the ")
    assert err.endswith(": replace it, or train with --tokenizer bytes or the default tokenizer (BPE), which encode any text\n")
    assert not Path("out").exists()
    assert run("train", "--data", "book.txt", *words, "--out", "out")[0] == 0
    for command in (("eval", "out", "--data", "over.txt"), ("train", "--data", "over.txt", "--init", "out", "--out", "new")):
        code, _, err = run(*command, "--threads", 1)
        assert code == 2 and f"over.txt, line {line}: the character 'Ü'" in err


# --- the command tokens


def test_tokens_prints_a_table(run: Run) -> None:
    code, out, err = run("tokens", "--tokenizer", "bytes", "a é")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        " id  piece    bytes",
        " 97  'a'      61",
        " 32  ' '      20",
        "195  b'\\xc3'  c3",
        "169  b'\\xa9'  a9",
        "4 tokens, 4 bytes, 1.00 bytes per token",
    ]


def test_wide_characters_stay_aligned_and_nothing_controls_the_terminal(run: Run) -> None:
    Tokenizer.char(["日x\n\t \x1b\u202e\\"]).save("mine.json")
    code, out, _ = run("tokens", "日x\n\t \x1b\u202e\\", "--tokenizer", "mine.json")
    assert code == 0
    lines = out.splitlines()
    assert [line.split(None, 1)[1].rsplit("  ", 1)[0].strip() for line in lines[1:-1]] == [
        *("'日'", "'x'", r"'\n'", r"'\t'", "' '", r"'\x1b'", r"'\u202e'", r"'\\'")
    ]
    columns = [line.rindex("  ") + 2 for line in lines[:-1]]
    assert columns == [columns[0], columns[0] - 1, *[columns[0]] * 7]  # 日 is two columns wide
    assert "\x1b" not in out and "\u202e" not in out


def test_tokens_as_json(run: Run) -> None:
    code, out, err = run("tokens", "--json", "--tokenizer", "bytes", "hé")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "tokens": 3,
        "bytes": 3,
        "bytes_per_token": 1.0,
        "pieces": [
            {"id": 104, "piece": "h", "bytes": [104]},
            {"id": 195, "piece": None, "bytes": [195]},
            {"id": 169, "piece": None, "bytes": [169]},
        ],
    }


def test_words_are_joined_and_standard_input_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = run("tokens", "Once", "upon", "--tokenizer", "bytes")[1]
    give(monkeypatch, "Once upon")
    assert run("tokens", "-", "--tokenizer", "bytes")[1] == joined
    give(monkeypatch, b"Once \xff")
    message = "minigpt: standard input is not UTF-8 text: invalid byte at position 5\n"
    assert run("tokens", "-", "--tokenizer", "bytes") == (2, "", message)


@pytest.mark.parametrize("words", [[], [""], ["-"]], ids=["none", "empty", "empty standard input"])
def test_tokens_needs_text(run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    give(monkeypatch, "")
    code, out, err = run("tokens", *words, "--tokenizer", "bytes")
    assert (code, out) == (2, "") and err.startswith("minigpt: the text is empty; expected text, such as minigpt tokens")


def test_tokens_of_a_run_by_path_or_name(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run("tokens", "hé", "--tokenizer", "bytes")[1]
    (checkpoint, *_) = sorted((trained / "checkpoints").iterdir())
    monkeypatch.chdir(trained.parent)
    monkeypatch.setattr("minigpt.runs.folder.RUNS", Path(trained.parent.name))
    monkeypatch.chdir(trained.parent.parent)
    for name in (trained, trained / "tokenizer.json", trained.name, checkpoint):
        assert run("tokens", "hé", "--tokenizer", name) == (0, expected, "")
    assert run("tokens", "hé", "--tokenizer", "./absent")[0] == 2


def test_a_model_without_a_tokenizer_is_refused(run: Run, directory: Path) -> None:
    assert run("tokens", "hé", "--tokenizer", directory) == (2, "", f"minigpt: {directory} has no tokenizer\n")


def test_by_default_tokens_uses_the_tokenizer_of_the_built_in_stories(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one of a default training run: prepared once, with lines about it on standard error."""
    for name, value in (("stories", 200), ("vocab_size", 300)):
        monkeypatch.setattr(Settings, name, value)
    code, out, err = run("tokens", "Once upon a time")
    assert code == 0
    assert "generating 200 stories\ntraining a tokenizer of 300 tokens\n" in err
    assert out.splitlines()[0].split() == ["id", "piece", "bytes"]
    assert run("tokens", "Once upon a time") == (0, out, "")
    monkeypatch.setattr(Settings, "stories", 1000)  # so that all characters of the validation text occur
    code, out, err = run("tokens", "Once", "--tokenizer", "char")
    assert code == 0 and out.endswith("4 tokens, 4 bytes, 1.00 bytes per token\n")
    code, _, err = run("tokens", "Ünknown", "--tokenizer", "char")
    assert code == 2 and err.startswith("minigpt: the character 'Ü' (U+00DC) is not among the")

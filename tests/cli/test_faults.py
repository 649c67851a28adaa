"""Invalid texts, settings and folders: the error is one line that names the cause, and no files are left behind."""

import json
import os
import re
import shutil
import socket
import string
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, load
from minigpt.data import corpus, sources
from minigpt.data.splits import open_split
from minigpt.data.tokenizer import Tokenizer
from minigpt.interop.hugging_face import export
from minigpt.training.settings import Settings

Result = tuple[int, str, str]
Run = Callable[..., Result]
Flags = Callable[..., list[object]]
Refused = Callable[..., str]
Command = Callable[..., list[str]]

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc, or a limit on memory")
MARK = "\n<|endoftext|>\n"
GOOD = MARK.join(f"Zoë saw {i} cats and a kite." for i in range(60)).encode()
JSONL = b'{"text": "one"}\n{"text": "two"}\n'
OUTS = {"--data": "new", "--val-data": "old"}  # each fault is tried with a new folder and with an existing run
KINDS = ("bytes", "char", None)  # of tokenizers; None is a BPE
PRINT_MEMORY = """
import atexit, resource
from minigpt.cli import main
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
main()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own cache, and runs in a folder with a valid text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    Path("good.txt").write_bytes(GOOD)
    return tmp_path / "cache"


@pytest.fixture
def old(trained: Path) -> Path:
    """A run that already exists."""
    return Path(shutil.copytree(trained, "old"))


@pytest.fixture
def refused(run: Run, cache: Path, old: Path) -> Refused:
    """`refused("--data", "x.txt")` returns the error of training, for a new folder and for an existing run."""

    def call(*words: object, outs: Iterable[str] = OUTS.values()) -> str:
        before = content(old)
        (message,) = {one_line(run("train", *words, "--out", out, "--overwrite")) for out in outs}
        assert not Path("new").exists()
        assert content(old) == before
        check_cache(cache)
        return message

    return call


def one_line(result: Result, *codes: int) -> str:
    """Check that the result is an error in one line, and return its message."""
    code, _, err = result
    assert code in (codes or (2,)), err
    assert err.startswith("minigpt: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("minigpt: ").removesuffix("\n")


def content(folder: Path) -> dict[Path, bytes | None]:
    """Return the content of a folder."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def check_cache(cache: Path) -> None:
    """Check that the cache contains complete entries and nothing else."""
    for entry in cache.iterdir() if cache.exists() else []:
        assert re.fullmatch("[0-9a-f]{16}", entry.name)
        assert {file.name for file in entry.iterdir()} >= {"about.json", "tokenizer.json", "train.bin", "valid.bin"}


def given(flag: str, name: object) -> list[object]:
    """Return the flags for a training or validation text, together with a valid training text."""
    return ["--data", name] if flag == "--data" else ["--data", "good.txt", "--val-data", name]


def process(command: list[str], **more: Any) -> Result:
    """Run a command in a new process."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, **more)
    return done.returncode, done.stdout, done.stderr


# ------------------------------------------------- invalid text

DAMAGED = "what precedes it is UTF-8, so the file may be damaged there"
LATIN = "it looks like Latin-1 or Windows-1252, so convert it: iconv -f WINDOWS-1252 -t UTF-8 a."
TRUNCATED = "it ends within a character, so a part of the file may be missing"
INVALID_UTF8 = {
    "truncated after one byte of two": ("a.txt", GOOD + "ë".encode()[:1], "invalid byte at position {0:,} ", DAMAGED),
    "truncated after three bytes of four": ("a.txt", GOOD + "🐈".encode()[:3], "invalid byte at position {0:,} ", TRUNCATED),
    "an invalid byte in the middle": ("a.txt", GOOD + b"\xff" + GOOD, "invalid byte at position {0:,} ", DAMAGED),
    "a truncated character in the middle": ("a.txt", GOOD + "🐈".encode()[:2] + GOOD, "invalid byte at position {0:,} ", DAMAGED),
    "a lone surrogate": ("a.txt", GOOD + b"\xed\xa0\xbd.", "invalid byte at position {0:,} ", DAMAGED),
    "Latin-1": ("a.txt", "Zoë ran.".encode("latin-1"), "invalid byte at position 2 ", LATIN),
    "UTF-16": (
        "a.txt",
        GOOD.decode().encode("utf-16"),
        "invalid byte at position 0 ",
        "it begins with the byte order mark of UTF-16",
    ),
    "a line truncated within a character": ("a.jsonl", JSONL + b'{"text": "\xc3\n' + JSONL, "invalid byte at position 42 ", ""),
    "the last line truncated within a character": (
        *("a.jsonl", JSONL + b'{"text": "\xf0\x9f', "invalid byte at position 42 ", TRUNCATED),
    ),
    "an invalid byte in a line": ("a.jsonl", JSONL + b'{"text": "\xff"}\n', "invalid byte at position 42 ", LATIN),
}
INVALID_JSONL = {
    "a truncated line": (b'{"text": "thr', "line 3: invalid JSON: "),
    "a list": (b"[1]", 'line 3: expected an object with the field "text"'),
    "a string": (b'"three"', 'line 3: expected an object with the field "text"'),
    "a missing field": (b'{"story": "three"}', 'line 3: the record has no field "text", only "story"'),
    "a number instead of a string": (b'{"text": 3}', 'line 3: the field "text" is int, but must be a string'),
    "null instead of a string": (b'{"text": null}', 'line 3: the field "text" is NoneType, but must be a string'),
    "a lone surrogate": (rb'{"text": "\ud83d"}', 'line 3: the field "text" contains a lone surrogate'),
    "deeply nested lists": (b"[" * 200_000, "line 3: the JSON cannot be read: maximum recursion depth exceeded"),
    "a very long number": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "line 3: the JSON cannot be read: Exceeds the limit"),
}
EMPTY = {
    "an empty file": ("a.txt", b""),
    "whitespace": ("a.txt", b" \n\t\r\n \xc2\xa0"),
    "a byte order mark": ("a.txt", b"\xef\xbb\xbf"),
    "end-of-text marks": ("a.txt", MARK.encode() * 3),
    "an empty JSONL file": ("a.jsonl", b""),
    "empty lines": ("a.jsonl", b"\n\r\n \n"),
    "empty texts": ("a.jsonl", b'{"text": ""}\n{"text": " "}\n'),
}


@pytest.mark.parametrize("flag", OUTS)
@pytest.mark.parametrize("name, written, message, hint", INVALID_UTF8.values(), ids=INVALID_UTF8)
def test_invalid_utf8_is_refused_with_its_position(
    refused: Refused, flags: Flags, flag: str, name: str, written: bytes, message: str, hint: str
) -> None:
    Path(name).write_bytes(written)
    error = refused(*given(flag, name), *flags(steps=2), outs=[OUTS[flag]])
    assert error.startswith(f"{name} is not UTF-8 text: {message.format(len(GOOD))}(counted from 0); {hint}")


@pytest.mark.parametrize("flag", OUTS)
@pytest.mark.parametrize("line, message", INVALID_JSONL.values(), ids=INVALID_JSONL)
def test_lines_without_a_text_are_refused_with_their_number(
    refused: Refused, flags: Flags, flag: str, line: bytes, message: str
) -> None:
    Path("a.jsonl").write_bytes(JSONL + line + b"\n" + JSONL)
    assert refused(*given(flag, "a.jsonl"), *flags(steps=2), outs=[OUTS[flag]]).startswith(f"a.jsonl, {message}")


@pytest.mark.parametrize("flag", OUTS)
@pytest.mark.parametrize("name, written", EMPTY.values(), ids=EMPTY)
def test_a_file_without_text_is_refused(refused: Refused, flags: Flags, flag: str, name: str, written: bytes) -> None:
    Path(name).write_bytes(written)
    assert refused(*given(flag, name), *flags(steps=2), outs=[OUTS[flag]]) == f"no text in {name}"


@pytest.mark.parametrize("name, written", [("a.txt", GOOD + b"\xff"), ("a.jsonl", JSONL + b"[1]"), ("a.txt", b"")])
def test_invalid_text_for_eval_is_refused(run: Run, cache: Path, trained: Path, name: str, written: bytes) -> None:
    Path(name).write_bytes(written)
    assert name in one_line(run("eval", trained, "--data", name))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name, written", [("a.txt", GOOD + b"\xff"), ("a.jsonl", JSONL + b"[1]")])
def test_invalid_text_is_refused_in_a_new_process(minigpt: Command, flags: Flags, cache: Path, name: str, written: bytes) -> None:
    Path(name).write_bytes(written)
    command = [sys.executable, "-m", "minigpt", *minigpt("train", "--data", name, *flags(steps=2), "--out", "out")[3:]]
    assert one_line(process(command)).startswith(name)
    assert not Path("out").exists() and list(cache.iterdir()) == []


# ------------------------------------------------- unusual, but valid text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("written", [GOOD.replace(b"saw", b"s\0w\0"), b"\0" * 400], ids=["some", "only"])
def test_nul_is_an_ordinary_character(run: Run, flags: Flags, cache: Path, kind: str | None, written: bytes) -> None:
    Path("nul.txt").write_bytes(written)
    words = flags(steps=1, threads=1, tokenizer=kind, vocab_size=258)
    code, _, err = run("train", "--data", "nul.txt", "--val-data", "nul.txt", *words, "--out", "out")
    assert (code, err) == (0, "")
    tokenizer = load("out")[1]
    assert tokenizer is not None
    texts = written.decode().split(MARK)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert tokenizer.decode(split(cache, "train", tokenizer)) == "".join(f"{text}<|endoftext|>" for text in texts)
    code, out, err = run("sample", "out", "--prompt", written.decode()[:4], "--max-new-tokens", 3)
    assert (code, err) == (0, "") and out.startswith(written.decode()[:4].replace("\0", "\ufffd"))  # printed without NUL


@pytest.mark.parametrize("end", ["\r\n", "\r"])
@pytest.mark.parametrize("kind", KINDS)
def test_line_endings_are_normalized(run: Run, cache: Path, end: str, kind: str | None) -> None:
    tokens = []
    for name, ending in (("a.txt", "\n"), ("b.txt", end)):
        Path(name).write_bytes(GOOD.decode().replace(" and", "\nand").replace("\n", ending).encode())
        words = ["--tokenizer", kind] if kind else ["--vocab-size", 270]
        assert run("prepare", "--data", name, *words)[0] == 0
        (entry,) = (path for path in cache.iterdir() if json.loads((path / "about.json").read_text())["name"] == name)
        tokens.append([(entry / f"{part}.bin").read_bytes() for part in ("train", "valid")])
    assert tokens[0] == tokens[1]


def split(cache: Path, name: str, tokenizer: Tokenizer) -> np.ndarray:
    """Return the tokens of the only corpus in the cache."""
    (entry,) = cache.iterdir()
    return np.asarray(open_split(entry / f"{name}.bin", tokenizer).tokens)


def test_lines_of_ten_megabytes_are_read(cache: Path) -> None:
    letters = np.random.default_rng(0).choice(np.frombuffer(string.ascii_letters.encode(), np.uint8), 10**7)
    words = letters[:7000].reshape(1000, 7)
    words[:, -1] = ord(" ")
    spaced = words[np.random.default_rng(0).integers(0, 1000, 10**7 // 7)]
    lines = {"train": letters[7000:].tobytes(), "valid": spaced.tobytes().strip()}
    for part, line in lines.items():
        Path(f"{part}.txt").write_bytes(line)
    command = [sys.executable, "-c", PRINT_MEMORY, "prepare", "--data", "train.txt", "--val-data", "valid.txt"]
    with ThreadPoolExecutor() as both:
        done = both.map(process, ([*command, *made] for made in (["--tokenizer", "bytes"], ["--vocab-size", "258"])))
    for code, out, err in done:
        assert (code, err) == (0, "")
        assert int(out.split()[-1]) * (1 if sys.platform == "darwin" else 1024) < 1 << 30
        assert all(f": 1 document, {len(line):,} bytes, " in out for line in lines.values())
    for entry in cache.iterdir():
        tokenizer = Tokenizer.load(entry)
        for part, line in lines.items():
            tokens = open_split(entry / f"{part}.bin", tokenizer).tokens
            assert tokens[-1] == tokenizer.end_of_text
            for part_of_tokens, matches in ((tokens[: 10**5], line.startswith), (tokens[-(10**5) : -1], line.endswith)):
                text = tokenizer.decode(part_of_tokens)
                assert len(text) >= len(part_of_tokens) and matches(text.encode())


# ------------------------------------------------- names without a text


def empty_folder() -> str:
    Path("folder").mkdir()
    return "folder"


def folder_without_text() -> str:
    Path("folder/x.txt").mkdir(parents=True)
    Path("folder/README.md").write_bytes(GOOD)
    return "folder"


def dangling_link() -> str:
    Path("link.txt").symlink_to("gone.txt")
    return "link.txt"


def link_to_a_deleted_file() -> str:
    Path("there.jsonl").write_bytes(JSONL)
    Path("link.jsonl").symlink_to("there.jsonl")
    Path("there.jsonl").unlink()
    return "link.jsonl"


def link_to_itself() -> str:
    Path("link.txt").symlink_to("link.txt")
    return "link.txt"


def unix_socket() -> str:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("text.txt")
    return "text.txt"


def in_a_folder(make: Callable[[], str]) -> Callable[[], str]:
    """Make the same file in a folder that also contains a valid text."""

    def make_in_folder() -> str:
        Path("folder").mkdir()
        Path("folder/good.txt").write_bytes(GOOD)
        made = Path(make())
        made.rename(Path("folder") / made)
        return "folder"

    return make_in_folder


TWICE = "but text is read more than once: write it to a file and use that"
NAMES: dict[str, tuple[Callable[[], str], str]] = {
    "a missing file": (lambda: "gone.txt", "no such file or folder: gone.txt"),
    "below a file": (lambda: "good.txt/a.txt", "no such file or folder: good.txt/a.txt"),
    "an empty name": (lambda: "", "the name of a text is empty, but must be a file or a folder"),
    "a name that is too long": (lambda: "a" * 300, f"{'a' * 300} cannot be read: File name too long"),
    "an empty folder": (empty_folder, "the folder folder contains no .txt or .jsonl file"),
    "a folder without text": (
        folder_without_text,
        "the folder folder contains no .txt or .jsonl file, only 1 other file (1 .md); "
        "a file of another kind that contains text must be named itself",
    ),
    "a dangling link": (dangling_link, "link.txt is a link to gone.txt, which does not exist"),
    "a dangling link in a folder": (in_a_folder(dangling_link), "folder/link.txt is a link to gone.txt, which does not exist"),
    "a deleted file": (link_to_a_deleted_file, "link.jsonl is a link to there.jsonl, which does not exist"),
    "a link to itself": (link_to_itself, "link.txt cannot be read: Too many levels of symbolic links"),
    "a link to itself in a folder": (
        in_a_folder(link_to_itself),
        "folder/link.txt cannot be read: Too many levels of symbolic links",
    ),
    "a socket": (unix_socket, f"text.txt is a socket, {TWICE}"),
    "a socket in a folder": (in_a_folder(unix_socket), f"folder/text.txt is a socket, {TWICE}"),
    "an empty device": (lambda: "/dev/null", f"/dev/null is a device, {TWICE}"),
}


@pytest.mark.parametrize("flag", OUTS)
@pytest.mark.parametrize("make, message", NAMES.values(), ids=NAMES)
def test_a_name_without_a_text_is_refused(
    refused: Refused, flags: Flags, flag: str, make: Callable[[], str], message: str
) -> None:
    assert refused(*given(flag, make()), *flags(steps=2), outs=[OUTS[flag]]) == message


def test_a_link_to_itself_is_refused_without_out_too(run: Run, flags: Flags) -> None:
    assert one_line(run("train", "--data", link_to_itself(), *flags(steps=2))).startswith("link.txt cannot be read")


@pytest.mark.parametrize("make", [lambda: "pipe.txt", in_a_folder(lambda: "pipe.txt")], ids=["alone", "in a folder"])
@pytest.mark.parametrize("flag", OUTS)
def test_a_pipe_is_refused_without_waiting(
    minigpt: Command, flags: Flags, cache: Path, flag: str, make: Callable[[], str]
) -> None:
    os.mkfifo("pipe.txt")
    message = one_line(process(minigpt("train", *given(flag, make()), *flags(steps=2), "--out", "out")))
    assert message.endswith(f"pipe.txt is a pipe, {TWICE}, or use standard input (-)")
    assert not Path("out").exists()
    check_cache(cache)


def test_process_substitution_is_refused(minigpt: Command, flags: Flags) -> None:
    if not (bash := shutil.which("bash")):
        pytest.skip("needs bash")
    words = minigpt("train", *flags(steps=2), "--out", "out")
    message = one_line(process([bash, "-c", '"$@" --data <(cat good.txt)', "bash", *words]))
    assert re.fullmatch(rf"/dev/fd/\d+ is a pipe, {TWICE}, or use standard input \(-\)", message)


def test_standard_input_is_refused(minigpt: Command, flags: Flags) -> None:
    command = minigpt("train", "--data", "/dev/stdin", *flags(steps=2), "--out", "out")
    assert one_line(process(command, input=GOOD.decode())) == f"/dev/stdin is a pipe, {TWICE}, or use standard input (-)"


@LINUX
@pytest.mark.parametrize("flag", OUTS)
def test_an_endless_device_is_refused(minigpt: Command, flags: Flags, flag: str) -> None:
    command = minigpt("train", *given(flag, "/dev/zero"), *flags(steps=2), "--out", "out")
    assert one_line(process([*limited(), *command])) == f"/dev/zero is a device, {TWICE}"


def test_a_folder_that_contains_itself_is_read_once(run: Run) -> None:
    Path("folder/deeper").mkdir(parents=True)
    Path("folder/good.txt").write_bytes(GOOD)
    Path("folder/deeper/up.txt").symlink_to("..")
    code, out, err = run("prepare", "--data", "folder", "--tokenizer", "bytes")
    assert (code, err) == (0, "")
    assert "training: 57 documents" in out and "validation: 3 documents" in out


@pytest.mark.parametrize("listing", [sources, corpus], ids=["before identification", "before reading"])
def test_a_file_that_is_deleted_after_it_was_listed_is_named(
    run: Run, flags: Flags, cache: Path, monkeypatch: pytest.MonkeyPatch, listing: Any
) -> None:
    Path("folder").mkdir()
    for name in ("a.txt", "b.txt"):
        Path("folder", name).write_bytes(GOOD)

    def find_and_delete(paths: list[str | Path], *say: Any) -> list[Path]:
        found = find(paths, *say)
        Path("folder/a.txt").unlink()
        return found

    find = corpus.text_files
    monkeypatch.setattr(listing, "text_files", find_and_delete)
    message = one_line(run("train", "--data", "folder", *flags(steps=2), "--out", "out"))
    assert message == "folder/a.txt cannot be read: No such file or directory"
    assert not Path("out").exists()
    check_cache(cache)


@LINUX
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_with_a_read_error_is_named(refused: Refused, flags: Flags, name: str) -> None:
    Path(name).symlink_to("/proc/self/mem")
    assert refused("--data", name, *flags(steps=2)) == f"{name} cannot be read: Input/output error"


def test_a_name_with_a_newline_is_printed_in_one_line(refused: Refused, flags: Flags) -> None:
    assert refused("--data", "two\nlines.txt", *flags(steps=2)).startswith("no such file or folder: two")


@LINUX
@pytest.mark.parametrize("setting", ["data", "prompt"])
def test_arguments_that_are_not_utf8_are_refused(refused: Refused, flags: Flags, setting: str) -> None:
    name = os.fsdecode(b"\xff.txt")
    Path(name).write_bytes(GOOD)
    words = ["--data", name] if setting == "data" else ["--data", "good.txt", "--prompt", name]
    assert setting in refused(*words, *flags(steps=2))


# ------------------------------------------------- permissions

DROP_CAPABILITIES = """
import ctypes, os, sys
if os.geteuid() == 0:  # root is subject to permissions without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert [ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) for capability in (1, 2)] == [0, 0]
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="session")
def unprivileged(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The beginning of a command line that runs a command subject to permissions, even as root."""
    wrapper = [sys.executable, "-c", DROP_CAPABILITIES]
    locked = tmp_path_factory.mktemp("permissions") / "locked"
    locked.write_text("secret", encoding="utf-8")
    locked.chmod(0)
    read = [sys.executable, "-c", f"open({str(locked)!r})"]
    if os.name == "nt" or "PermissionError" not in process([*wrapper, *read])[2]:
        pytest.skip("this user is not subject to permissions")
    return wrapper


@pytest.fixture
def forbid() -> Iterator[Callable[[str, int], str]]:
    """`forbid(path, mode)` sets the permissions of a file or folder until the end of the test."""
    changed = []

    def change(path: str, mode: int) -> str:
        changed.append(path)
        Path(path).chmod(mode)
        return path

    yield change
    for path in reversed(changed):
        Path(path).chmod(0o700)


LOCKED = {
    "a file": ("--data", "folder/b.txt", 0, "folder/b.txt", "folder/b.txt"),
    "a file in a folder": ("--val-data", "folder/b.txt", 0, "folder", "folder/b.txt"),
    "a folder": ("--data", "folder", 0, "folder", "folder"),
    "a file in a locked folder": ("--val-data", "folder", 0, "folder/b.txt", "folder/b.txt"),
    "a folder in a folder": ("--data", "folder/deeper", 0, "folder", "folder/deeper"),
    "a folder that may only be listed": ("--val-data", "folder/deeper", 0o600, "folder", "folder/deeper/c.txt"),
    "a folder that may only be entered": ("--data", "folder/deeper", 0o100, "folder", "folder/deeper"),
}


@pytest.mark.parametrize("flag, locked, mode, name, named", LOCKED.values(), ids=LOCKED)
def test_unreadable_text_is_refused(
    minigpt: Command,
    flags: Flags,
    cache: Path,
    unprivileged: list[str],
    forbid: Callable[[str, int], str],
    flag: str,
    locked: str,
    mode: int,
    name: str,
    named: str,
) -> None:
    Path("folder/deeper").mkdir(parents=True)
    for text in ("a.txt", "b.txt", "deeper/c.txt"):
        Path("folder", text).write_bytes(GOOD)
    forbid(locked, mode)
    message = one_line(process([*unprivileged, *minigpt("train", *given(flag, name), *flags(steps=2), "--out", "out")]))
    assert message == f"{named} cannot be read: Permission denied"
    assert not Path("out").exists()
    check_cache(cache)


def test_an_unreadable_config_is_refused(minigpt: Command, unprivileged: list[str], forbid: Callable[[str, int], str]) -> None:
    Path("c.toml").write_text("steps = 3", encoding="utf-8")
    command = minigpt("train", "--config", forbid("c.toml", 0), "--data", "good.txt", "--out", "out")
    assert one_line(process([*unprivileged, *command])) == "c.toml: Permission denied"
    assert not Path("out").exists()


# ------------------------------------------------- settings

FLOATS = [field.name for field in fields(Settings) if field.type is float]
INTEGERS = [field.name for field in fields(Settings) if field.type is int]
SWITCHES = [field.name for field in fields(Settings) if field.type is bool]
NAN, INF = float("nan"), float("inf")

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"d_model": 15}, "d_model is 15, but must be divisible by n_heads = 2"),
    ({"n_heads": 3}, "d_model is 16, but must be divisible by n_heads = 3"),
    ({"n_kv_heads": 3}, "n_heads is 2, but must be divisible by n_kv_heads = 3"),
    ({"n_kv_heads": -1}, "n_kv_heads is -1, but must be a positive integer"),
    *(({name: 0}, f"{name} is 0, but must be ") for name in ("steps", "batch_size", "d_model", "n_layers", "n_heads")),
    *(({name: -1}, f"{name} is -1, but must be ") for name in ("steps", "batch_size", "d_model", "n_layers", "seed", "threads")),
    ({"vocab_size": 0, "tokenizer": None}, "vocab_size is 0, but must be at least 1"),
    ({"vocab_size": 1, "tokenizer": None}, "vocab_size is 1, but a byte-level vocabulary needs at least 257"),
    ({"vocab_size": 256, "tokenizer": None}, "vocab_size is 256, but a byte-level vocabulary needs at least 257"),
    ({"context_length": 0}, "context_length is 0, but must be a positive integer"),
    ({"context_length": -1}, "context_length is -1, but must be a positive integer"),
    ({"lr": 0.0}, "lr is 0.0, but must be a finite number greater than 0"),
    ({"lr": -0.1}, "lr is -0.1, but must be a finite number greater than 0"),
    ({"dropout": 1.0}, "dropout is 1.0, but must be at least 0 and less than 1"),
    ({"dropout": -0.1}, "dropout is -0.1, but must be at least 0 and less than 1"),
    ({"beta1": 1.0}, "beta1 is 1.0, but must be at least 0 and less than 1"),
    ({"beta2": 1.0}, "beta2 is 1.0, but must be at least 0 and less than 1"),
    ({"min_lr_ratio": 1.5}, "min_lr_ratio is 1.5, but must be from 0 to 1"),
    *(({name: NAN}, f"{name} is nan, but must be ") for name in FLOATS),
    *(({name: INF}, f"{name} is inf, but must be ") for name in FLOATS if name != "clip"),
]


def config(settings: dict[str, Any]) -> list[object]:
    """Write settings to a file, and return the flag that names it."""
    import tomli_w

    Path("c.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    return ["--config", "c.toml"]


def settings(source: str, flags: Flags, **changes: Any) -> list[object]:
    """Return the flags that give settings directly or in a file."""
    words = flags(**{"steps": 2} | changes)
    if source == "flags":
        return ["--data", "good.txt", *words]
    names = [str(word).removeprefix("--").replace("-", "_") for word in words[::2]]
    return config({"data": ["good.txt"]} | dict(zip(names, words[1::2], strict=True)))


@pytest.mark.parametrize("source, out", [("flags", "new"), ("file", "old")])
@pytest.mark.parametrize("changes, message", INVALID, ids=str)
def test_an_invalid_setting_is_refused(
    refused: Refused, flags: Flags, source: str, out: str, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(*settings(source, flags, **changes), outs=[out])


@pytest.mark.parametrize("length", [2_000, 10**12])
def test_a_context_longer_than_the_text_is_refused(refused: Refused, flags: Flags, length: int) -> None:
    message = refused(*settings("flags", flags, context_length=length))
    assert message.endswith(f"needs {length + 1:,}: use more text or a smaller context_length")


def test_a_context_from_a_file_is_reduced_for_a_short_text(run: Run, flags: Flags) -> None:
    code, out, err = run("train", *settings("file", flags, context_length=2_000, steps=1, threads=1), "--out", "out")
    assert (code, err) == (0, "")
    assert "The training text has only 1,644 tokens: context_length is 512 instead of 2000." in out


def test_an_infinite_clip_is_accepted(run: Run, flags: Flags) -> None:
    assert run("train", *settings("file", flags, clip=INF, threads=1), "--out", "out")[::2] == (0, "")


def test_the_settings_of_these_tests_are_otherwise_valid(run: Run, flags: Flags) -> None:
    for source in ("flags", "file"):
        assert run("train", *settings(source, flags, threads=1), "--out", source)[::2] == (0, "")
    losses = [[record["loss"] for record in records(Path(source))] for source in ("flags", "file")]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def records(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run in metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "name, value", [*((name, "1.5") for name in INTEGERS), ("steps", "many"), ("seed", "true"), ("d_ff", "")]
)
def test_a_flag_that_is_not_an_integer_is_refused(run: Run, name: str, value: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert one_line(run("train", "--data", "gone.txt", flag, value)) == f"Invalid value for {flag}: {value!r} is not an integer"


@pytest.mark.parametrize("name, value", [*((name, "true") for name in FLOATS), ("lr", "fast"), ("clip", "1,5"), ("beta1", "")])
def test_a_flag_that_is_not_a_number_is_refused(run: Run, name: str, value: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    message = one_line(run("train", "--data", "gone.txt", flag, value))
    assert message == f'Invalid value for {flag}: unable to convert "{value}" into float.'


WRONG_TYPES = [
    *((name, "true", "an integer") for name in INTEGERS),
    *(("steps", value, "an integer") for value in ('"3"', "3.0", "[3]", "1979-05-27")),
    *((name, "true", "a number") for name in FLOATS),
    *(("lr", value, "a number") for value in ('"0.1"', "[0.1]")),
    *((name, value, "true or false") for name in SWITCHES for value in ("1", '"yes"')),
    *((name, value, "a string") for name in ("val_data", "tokenizer", "prompt", "preset", "norm") for value in ("3", "[]")),
    *(("data", value, "a list of strings") for value in ('"a.txt"', "[]", "[3]", "true")),
]


@pytest.mark.parametrize("name, value, expected", WRONG_TYPES)
def test_a_value_of_the_wrong_type_in_a_file_is_refused(run: Run, name: str, value: str, expected: str) -> None:
    Path("c.toml").write_text(f"{name} = {value}\n", encoding="utf-8")
    message = one_line(run("train", "--config", "c.toml", "--data", "gone.txt", "--out", "out"))
    assert re.fullmatch(rf"c\.toml: {name} is .*, but must be {expected}", message)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--stepz", 3], "Unknown option: --stepz. Did you mean --steps?"),
        (["--dmodel", 3], "Unknown option: --dmodel. Did you mean --d-model?"),
        (["--contxt-length", 3], "Unknown option: --contxt-length. Did you mean --context-length?"),
        (["--beta-1", 0.5], "Unknown option: --beta-1. Did you mean --beta1?"),
    ],
)
def test_an_unknown_flag_is_refused_with_a_suggestion(refused: Refused, words: list[object], message: str) -> None:
    assert refused("--data", "gone.txt", *words) == f"{message} `minigpt train --help` lists the options."


SHORT = ("--stories", 20, "--steps", 1)  # in case it trains after all
FILES = {
    "a similar name": (b"stepz = 3", "c.toml: there is no setting 'stepz'; did you mean 'steps'?"),
    "a name like a flag": (b"d-model = 3", "c.toml: there is no setting 'd-model'; did you mean 'd_model'?"),
    "an unknown name": (b"qqq = 3", "c.toml: there is no setting 'qqq'"),
    "a table": (b"[train]\nsteps = 3", "c.toml: there is no setting 'train'"),
    "a setting twice": (b"steps = 3\nsteps = 4", "c.toml is not a TOML file: Cannot overwrite a value"),
    "an incomplete line": (b"steps = 3\nlr =", "c.toml is not a TOML file: Invalid value (at end of document)"),
    "JSON": (b'{"steps": 3}', "c.toml is not a TOML file: Invalid statement (at line 1, column 1)"),
    "bytes": (bytes(range(128, 256)), "c.toml is not a TOML file: 'utf-8' codec can't decode byte 0x80 in position 0"),
    "Latin-1": (
        'prompt = "Zoë"'.encode("latin-1"),
        "c.toml is not a TOML file: 'utf-8' codec can't decode byte 0xeb in position 12",
    ),
    "an empty name of a text": (b'data = [""]', "the name of a text is empty"),
    "an impossible file name": (b'data = ["a\\u0000b"]', "no such file or folder: a\ufffdb"),
    "another impossible file name": (b'data = ["good.txt"]\nval_data = "a\\u0000b"', "no such file or folder: a\ufffdb"),
}


@pytest.mark.parametrize("written, message", FILES.values(), ids=FILES)
def test_an_invalid_config_is_refused(refused: Refused, written: bytes, message: str) -> None:
    Path("c.toml").write_bytes(written)
    assert refused("--config", "c.toml", *SHORT).startswith(message)


@pytest.mark.parametrize("written", [b"steps = " + b"[" * 5000, b"steps = " + b"9" * 5000], ids=["lists", "digits"])
def test_an_oversized_config_is_refused(refused: Refused, written: bytes) -> None:
    Path("c.toml").write_bytes(written)
    assert refused("--config", "c.toml", *SHORT).startswith("c.toml is not a TOML file")


@pytest.mark.parametrize(
    "name, message",
    [
        ("gone.toml", "gone.toml: No such file or directory"),
        ("folder", "folder: Is a directory"),
        ("good.txt/c.toml", "good.txt/c.toml: Not a directory"),
        ("good.txt", "good.txt is not a TOML file"),
        ("", "Invalid value for --config: the path is empty"),
    ],
)
def test_a_config_that_is_not_a_file_is_refused(refused: Refused, name: str, message: str) -> None:
    Path("folder").mkdir()
    assert refused("--config", name, *SHORT).startswith(message)


@pytest.mark.parametrize("name", ["good.txt", "folder", "gone", "/dev/null"])
@pytest.mark.parametrize("flag", ["--tokenizer", "--init"])
def test_an_invalid_tokenizer_or_model_is_refused(refused: Refused, flag: str, name: str) -> None:
    Path("folder").mkdir()
    assert name in refused("--data", "good.txt", flag, name)


def test_a_hostile_pattern_of_a_tokenizer_is_one_line(minigpt: Command, tmp_path: Path) -> None:
    """The library panics, and would print a stack of 60 lines for each thread."""
    model = GPT(ModelConfig(vocab_size=300, context_length=16, d_model=8, n_layers=1, n_heads=1))
    export(model, Tokenizer.train(["Once upon a time. " * 40], 280), tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"pre_tokenizer": split}), encoding="utf-8")
    Path("hostile.txt").write_text(f"{'a' * 40}c{MARK}" * 2, encoding="utf-8")
    sample = ("sample", path.parent, "--prompt", "a" * 40 + "c")
    for words in [sample, ("prepare", "--tokenizer", path, "--data", "hostile.txt", "--context-length", 8)]:
        done = subprocess.run(
            minigpt(*words), capture_output=True, encoding="utf-8", timeout=60, env=os.environ | {"RUST_BACKTRACE": "1"}
        )
        assert done.returncode == 2
        assert done.stderr == "minigpt: the text cannot be encoded: Onig: Regex search error: retry-limit-in-match over\n"


# ------------------------------------------------- sizes that do not fit in memory


def limited() -> list[str]:
    """Return the beginning of a command line that limits the memory of a command to 6 GB."""
    return ["sh", "-c", 'ulimit -v 6000000; exec "$@"', "sh"]


ENORMOUS = [
    ("d_model", 10**9),
    ("d_model", 10**30),
    ("d_ff", 10**9),
    ("vocab_size", 10**30),
    ("vocab_size", 10**9),
    ("batch_size", 10**9),
    ("seed", 10**30),
    ("n_layers", 10**9),
]


@LINUX
@pytest.mark.parametrize("name, value", ENORMOUS)
def test_a_size_that_does_not_fit_in_memory_is_refused(
    minigpt: Command, flags: Flags, cache: Path, old: Path, name: str, value: int
) -> None:
    before = content(old)
    words = flags(**{"steps": 2, name: value} | ({"tokenizer": None} if name == "vocab_size" else {}))
    command = minigpt("train", "--data", "good.txt", *words, "--out", old, "--overwrite")
    assert name in one_line(process([*limited(), *command]), 1, 2)
    assert content(old) == before
    check_cache(cache)


# ------------------------------------------------- invalid folders for a run


def a_file() -> str:
    Path("file").write_text("mine", encoding="utf-8")
    return "file"


INVALID_FOLDERS: dict[str, tuple[Callable[[], str], str]] = {
    "a file": (a_file, "file"),
    "below a file": (lambda: f"{a_file()}/run", "file"),
    "far below a file": (lambda: f"{a_file()}/a/b/run", "file"),
    "a device": (lambda: "/dev/null", "/dev/null"),
    "a dangling link": (dangling_link, "link.txt"),
    "below a dangling link": (lambda: f"{dangling_link()}/run", "link.txt"),
    "a link to itself": (link_to_itself, "link.txt"),
    "below a link to itself": (lambda: f"{link_to_itself()}/run", "link.txt"),
    "a name that is too long": (lambda: "a" * 300, "a" * 300),
}


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["new", "overwrite"])
@pytest.mark.parametrize("make, named", INVALID_FOLDERS.values(), ids=INVALID_FOLDERS)
def test_an_invalid_folder_for_the_run_is_refused(
    run: Run, flags: Flags, tmp_path: Path, make: Callable[[], str], named: str, overwrite: list[str]
) -> None:
    out = make()
    before = content(tmp_path)
    message = one_line(run("train", "--data", "good.txt", *flags(steps=2), "--out", out, *overwrite))
    assert named in message and "choose another --out" in message
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "mode, out",
    [
        (0o500, "folder/run"),
        (0o500, "folder/a/b/run"),
        (0o600, "folder/run"),
        (0o000, "folder/run"),
        (0o300, "folder"),
    ],
    ids=["not writable", "parent not writable", "not enterable", "no permissions", "not listable"],
)
def test_a_folder_for_the_run_without_permission_is_refused(
    minigpt: Command, flags: Flags, cache: Path, unprivileged: list[str], forbid: Callable[[str, int], str], mode: int, out: str
) -> None:
    Path("folder").mkdir()
    forbid("folder", mode)
    message = one_line(process([*unprivileged, *minigpt("train", "--data", "good.txt", *flags(steps=2), "--out", out)]))
    assert "folder" in message and "choose another --out" in message
    assert list(Path("folder").iterdir()) == []
    check_cache(cache)

"""Fuzz tests: damaged tokenizers and token files either work or raise a ValueError of one line."""

import base64
import copy
import json
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from minigpt.data.corpus import END_OF_TEXT
from minigpt.data.splits import open_split
from minigpt.data.token_files import prepare, write_split
from minigpt.data.tokenizer import Tokenizer

fuzz = settings(deadline=None, max_examples=150, database=None)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory works on Linux only")
STORY = "Once upon a time there was a cat. Zoë saw it 12 times."
TEXTS = ["", STORY, "🐈 aab\x00\n", END_OF_TEXT]

deep = st.sampled_from([100, 10_000]) | st.integers(500, 3000)
odd = (
    st.sampled_from(
        ["null", "true", "-1", "0", "1", "2", "1e308", "1e999", "NaN", '""', '"a"', '"a\\nb"', '"\\ud800"', "[]", "{}"]
    )
    | st.sampled_from([str(2**bits + more) for bits in (31, 32, 63, 64) for more in (-1, 0)])
    | st.sampled_from(["9" * 5000, '"(a|a)*$"', '"["', '{"content": "a"}', '["a", 1]', '[["a", "b"]]', json.dumps(END_OF_TEXT)])
    | deep.map(lambda n: "[" * n + "]" * n)
    | deep.map(lambda n: '{"a":' * n + "0" + "}" * n)
)


@st.composite
def mutated(draw: st.DrawFn, content: dict[str, Any]) -> str:
    """Return a JSON object with some values replaced by unusual ones, removed or repeated."""
    content, marks = copy.deepcopy(content), {}
    for i in range(draw(st.integers(1, 2))):
        parent: Any = content
        while parent:
            key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
            if not (isinstance(parent[key], dict | list) and parent[key] and draw(st.booleans())):
                break
            parent = parent[key]
        if not parent:
            break
        how, before = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"])), parent.pop(key)
        if how == "remove":
            continue
        new = draw(odd)
        if how == "repeat":
            second = f"{json.dumps(key)}: {new}" if isinstance(parent, dict) else new
            new = f"{json.dumps(before)}, {second}"
        marks[f'"@{i}@"'] = new
        if isinstance(parent, dict):
            parent[key] = f"@{i}@"
        else:
            parent.insert(key, f"@{i}@")
    text = json.dumps(content)
    for mark in reversed(marks):
        text = text.replace(mark, marks[mark])
    return text


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return `content` with some bytes overwritten, possibly truncated."""
    letters = st.sampled_from(string.printable).map(str.encode) | st.binary(min_size=1, max_size=3)
    for new in draw(st.lists(letters, max_size=3)):
        i = draw(st.integers(0, len(content)))
        content = content[:i] + new + content[i + len(new) :]
    return content[: draw(st.sampled_from([len(content)] * 3 + [len(content) * 9 // 10, 10, 0]))]


def check_one_line(error: ValueError, *names: object) -> None:
    assert len(str(error).splitlines()) == 1
    assert all(str(name) in str(error) for name in names)


def run_with_little_memory(code: str, *arguments: str) -> str:
    """Run code in a process that may allocate 256 MB in addition to the library; return its output and any ValueError."""
    code = f"""
import resource, sys
import numpy, tokenizers, minigpt.data.token_files
from minigpt.data.tokenizer import Tokenizer
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    {code}
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ------------------------------------------------------------------ tokenizers


def llama_backend() -> Backend:
    vocab = {
        piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"])
    }
    made = Backend(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.NFKC()])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def backend_with_many_parts() -> Backend:
    made = Backend(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -0.5)], 0, False))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "isolated"), pre_tokenizers.FixedLength(5), pre_tokenizers.Digits()]
    )
    made.decoder = decoders.Sequence([decoders.Strip("a", 1, 1), decoders.CTC(), decoders.WordPiece(), decoders.Metaspace()])
    return made


def content_of(tokenizer: Tokenizer | Backend) -> dict[str, Any]:
    backend = tokenizer._backend if isinstance(tokenizer, Tokenizer) else tokenizer
    return dict(json.loads(backend.to_str()))


REAL = {
    "BPE": content_of(Tokenizer.train([STORY] * 3, 270)),
    "characters": content_of(Tokenizer.char([STORY])),
    "Llama": content_of(llama_backend()),
    "parts": content_of(backend_with_many_parts()),
}
CONFIGS = {
    "tokenizer_config.json": {"bos_token": {"content": "<s>", "special": True}, "eos_token": "</s>", "model_max_length": 8},
    "config.json": {"model_type": "llama", "bos_token_id": 1, "eos_token_id": [2, 0]},
}


def check_works_or_is_refused(path: Path) -> None:
    """Check that loading a tokenizer, encoding and decoding either work or raise a ValueError of one line."""
    try:
        tokenizer = Tokenizer.load(path)
    except ValueError as error:
        return check_one_line(error, path)
    for text in TEXTS:
        try:
            ids = tokenizer.encode(text)
            assert all(0 <= i < tokenizer.vocab_size for i in ids)
            assert isinstance(tokenizer.decode([*ids, *tokenizer.separator_ids]), str)
        except ValueError as error:
            check_one_line(error)
    assert len(tokenizer.fingerprint) == 64 and tokenizer.config()
    assert set(tokenizer.separator_ids) <= set(range(tokenizer.vocab_size))


@pytest.mark.parametrize("kind", REAL)
@given(data=st.data())
@fuzz
def test_a_tokenizer_with_an_unusual_value(scratch: Path, kind: str, data: st.DataObject) -> None:
    path = scratch / "odd.json"
    path.write_text(data.draw(mutated(REAL[kind])), encoding="utf-8")
    check_works_or_is_refused(path)


@given(content=st.binary(max_size=200) | st.sampled_from([json.dumps(real).encode() for real in REAL.values()]).flatmap(damaged))
@fuzz
def test_a_tokenizer_of_random_or_damaged_bytes(scratch: Path, content: bytes) -> None:
    (scratch / "damaged.json").write_bytes(content)
    check_works_or_is_refused(scratch / "damaged.json")


@pytest.mark.parametrize("name", CONFIGS)
@given(data=st.data())
@fuzz
def test_a_damaged_config_of_a_tokenizer(scratch: Path, name: str, data: st.DataObject) -> None:
    folder = scratch / name.removesuffix(".json")
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(REAL["Llama"]), encoding="utf-8")
    real = json.dumps(CONFIGS[name]).encode()
    content = data.draw(mutated(CONFIGS[name]).map(str.encode) | damaged(real) | st.binary(max_size=50))
    (folder / name).write_bytes(content)
    check_works_or_is_refused(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"[" * 10_000])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_invalid_config_of_a_tokenizer_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(REAL["Llama"]), encoding="utf-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as refused:
        Tokenizer.load(tmp_path)
    check_one_line(refused.value, tmp_path, name)


VOCAB = json.dumps({letter: i for i, letter in enumerate(["a", "b", "ab", "Ġ", "Ġa"])})
MERGES = "#version: 0.2\na b\nĠ a\n"


@given(
    vocab=st.just(VOCAB.encode()) | mutated(json.loads(VOCAB)).map(str.encode) | damaged(VOCAB.encode()) | st.binary(max_size=50),
    merges=st.just(MERGES.encode())
    | damaged(MERGES.encode())
    | st.binary(max_size=50)
    | st.lists(st.sampled_from(["a b", "b a", "a", "", " ", "a b ab", "#", "é é", "ab ab"])).map(
        lambda lines: "\n".join(lines).encode()
    ),
)
@fuzz
def test_a_vocabulary_and_its_merges(scratch: Path, vocab: bytes, merges: bytes) -> None:
    folder = scratch / "gpt2"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_bytes(vocab)
    (folder / "merges.txt").write_bytes(merges)
    check_works_or_is_refused(folder)


def tokenizer_with(kind: str, **parts: Any) -> str:
    return json.dumps({**REAL[kind], **parts})


def model_with(kind: str, **fields: Any) -> str:
    return tokenizer_with(kind, model={**REAL[kind]["model"], **fields})


PANICS: dict[str, tuple[str, str]] = {
    "loading": (model_with("BPE", continuing_subword_prefix="#" * 20), "no tokenizer can be read from"),
    "encoding": (tokenizer_with("parts", pre_tokenizer={"type": "FixedLength", "length": 0}), "the text cannot be encoded"),
    "hostile pattern": (
        tokenizer_with(
            "BPE", pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
        ),
        "the text cannot be encoded: Onig: Regex search error: retry-limit-in-match over",
    ),
    "decoding": (
        tokenizer_with("parts", decoder={"type": "Strip", "content": "a", "start": 0, "stop": 2**63}),
        "the ids cannot be decoded",
    ),
}


@pytest.mark.parametrize("when", PANICS)
def test_a_panic_of_the_library_is_a_value_error(tmp_path: Path, capfd: pytest.CaptureFixture[str], when: str) -> None:
    """It prints nothing, although the library prints a message and, with RUST_BACKTRACE=1, a stack for each thread."""
    text, message = PANICS[when]
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as refused:
        tokenizer = Tokenizer.load(tmp_path)
        tokenizer.encode_batch(["ab"] * 10 if when != "hostile pattern" else ["a" * 40 + "c"] * 10)
        tokenizer.decode([1])
    assert len(str(refused.value).splitlines()) == 1
    print("after", file=sys.stderr)
    assert capfd.readouterr() == ("", "after\n")


@pytest.mark.parametrize("kind", ["bytes", "characters", "BPE"])
def test_standard_error_stays_for_the_tokenizers_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Other threads print there while a text is encoded, such as the watchdog of a job."""
    tokenizer = Tokenizer.bytes() if kind == "bytes" else Tokenizer.char([STORY])
    if kind == "BPE":
        tokenizer = Tokenizer.train([STORY], 270)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    monkeypatch.setattr("minigpt.data.tokenizer.no_panic_messages", None)  # a call would fail
    assert loaded.decode(loaded.encode(STORY)) == STORY
    assert tokenizer.decode(tokenizer.encode(STORY)) == STORY


def test_without_a_standard_error_the_library_is_used_as_ever(tmp_path: Path) -> None:
    text, message = PANICS["hostile pattern"]
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    code = f"""
import os
from minigpt.data.tokenizer import Tokenizer
os.close(2)
tokenizer = Tokenizer.load({str(tmp_path)!r})
print(tokenizer.decode(tokenizer.encode("ab")))
try:
    tokenizer.encode("a" * 40 + "c")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout.splitlines()[0], message in done.stdout) == (0, "ab", True)


def test_an_interrupt_in_the_library_stays_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    tokenizer = Tokenizer.bytes()
    tokenizer._backend = type("Backend", (), {"decode": interrupt, "encode_batch_fast": interrupt})()
    calls: list[Callable[[], object]] = [lambda: tokenizer.decode([1]), lambda: tokenizer.encode("a")]
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.parametrize("vocab", [{"a": 2, "b": 5}, {"a": 1}])
def test_an_end_of_text_with_the_id_of_another_token_is_refused(tmp_path: Path, vocab: dict[str, int]) -> None:
    (tmp_path / "tokenizer.json").write_text(
        tokenizer_with("BPE", model={**REAL["BPE"]["model"], "vocab": vocab, "merges": []}, added_tokens=[]), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"would get the id \d, which belongs to another token"):
        Tokenizer.load(tmp_path)


def charsmap_of(content: bytes) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


HUGE: dict[str, str] = {
    "an id": model_with("BPE", vocab={"a": 0, "b": 2**32 - 1}, merges=[]),
    "the first id that is refused": model_with("BPE", vocab={"a": 0, "b": 2**22}, merges=[]),
    "a character map": tokenizer_with("BPE", normalizer=charsmap_of(b"\xff" * 40)),
    "one of two character maps": tokenizer_with("BPE", normalizer=charsmap_of(b"\xff" * 40))[:-1] + ', "normalizer": null}',
}


@on_linux
@pytest.mark.parametrize("what", HUGE)
def test_a_small_tokenizer_that_claims_to_be_huge_takes_little_memory(tmp_path: Path, what: str) -> None:
    (tmp_path / "tokenizer.json").write_text(HUGE[what], encoding="utf-8")
    output = run_with_little_memory("print(Tokenizer.load(sys.argv[1]).fingerprint)", str(tmp_path))
    assert "no tokenizer can be read from" in output


# ------------------------------------------------------------------ token files

DOCUMENTS = ["One cat.", "Two dogs."]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a token file, and its metadata."""
    path = tmp_path_factory.mktemp("written") / "train.bin"
    write_split(path, DOCUMENTS, Tokenizer.bytes())
    return path.read_bytes(), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


DTYPES = st.sampled_from(
    ["O", "|O", "V8", "f8", "<f2", ">u2", "u1", "<u4", "<u8", "M8", "M8[s]", "S2", "U1", "<u2,<u2", "x", "?"]
)


@st.composite
def damaged_metadata(draw: st.DrawFn, metadata: dict[str, Any]) -> bytes:
    """Return the JSON file of a token file, usually with one invalid value."""
    dtype = (DTYPES | st.text(max_size=5)).map(lambda dtype: json.dumps({**metadata, "dtype": dtype}))
    lengths = st.integers(-1, 40) | st.sampled_from([2**60, 2**63, 2**64, 10**4200])
    length = lengths.map(lambda n: json.dumps({**metadata, "tokens": n}))
    return draw(
        st.one_of(dtype, length, mutated(metadata), odd).map(str.encode) | damaged(json.dumps(metadata).encode()) | st.binary()
    )


@given(data=st.data())
@fuzz
def test_a_damaged_token_file_is_refused(scratch: Path, written: tuple[bytes, dict[str, Any]], data: st.DataObject) -> None:
    content, metadata = written
    path = scratch / "train.bin"
    path.write_bytes(data.draw(st.just(content) | st.just(content) | damaged(content)))
    path.with_suffix(".json").write_bytes(data.draw(st.just(json.dumps(metadata).encode()) | damaged_metadata(metadata)))
    try:
        split = open_split(path, Tokenizer.bytes())
    except ValueError as error:
        return check_one_line(error, path.with_suffix(""))
    assert split.tokens.dtype == "<u2" and split.tokens.tobytes() == content
    assert split.n_tokens == len(content) // 2
    assert type(split.documents) is type(split.bytes) is int and min(split.documents, split.bytes) >= 0


@pytest.mark.parametrize("dtype", ["O", "V8", "f8", "<u2,<u2", "M8", "S1000000000", "<u4", ["<u2"], {"names": ["a"]}, None, 2])
def test_a_token_file_of_another_dtype_is_refused(scratch: Path, written: tuple[bytes, dict[str, Any]], dtype: Any) -> None:
    (scratch / "train.bin").write_bytes(written[0])
    (scratch / "train.json").write_text(json.dumps({**written[1], "dtype": dtype}), encoding="utf-8")
    with pytest.raises(ValueError) as refused:
        open_split(scratch / "train.bin", Tokenizer.bytes())
    check_one_line(refused.value, scratch / "train")


@pytest.mark.parametrize("number", [-1, 2**63, 9 * 10**4299, 1.5, True, None, "12", [12], {}])
@pytest.mark.parametrize("field", ["tokens", "documents", "bytes"])
def test_a_token_file_with_invalid_sizes_is_refused(
    scratch: Path, written: tuple[bytes, dict[str, Any]], field: str, number: Any
) -> None:
    (scratch / "train.bin").write_bytes(written[0])
    (scratch / "train.json").write_text(json.dumps({**written[1], field: number}), encoding="utf-8")
    with pytest.raises(ValueError) as refused:
        open_split(scratch / "train.bin", Tokenizer.bytes())
    check_one_line(refused.value, f"{scratch / 'train.json'} is damaged, in the field {field}: ")


@on_linux
@pytest.mark.parametrize(
    "metadata",
    [{"tokens": 2**60}, {"tokens": "ab" * 50, "dtype": "S10000000"}, {"dtype": "O"}, {"dtype": f"({10**9},)u2"}],
    ids=str,
)
def test_a_small_token_file_that_claims_to_be_huge_takes_little_memory(
    tmp_path: Path, written: tuple[bytes, dict[str, Any]], metadata: dict[str, Any]
) -> None:
    (tmp_path / "train.bin").write_bytes(written[0])
    (tmp_path / "train.json").write_text(json.dumps({**written[1], **metadata}), encoding="utf-8")
    call = "minigpt.data.splits.open_split(__import__('pathlib').Path(sys.argv[1]), Tokenizer.bytes())"
    assert str(tmp_path / "train") in run_with_little_memory(call, str(tmp_path / "train.bin"))


# -------------------------------------------------------------- prepared folders


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """A function that opens a prepared folder."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"One {name} story.", encoding="utf-8")
    return lambda: prepare([str(folder / "a.txt")], str(folder / "b.txt"), tokenizer="bytes", cache=folder / "cache")


@given(data=st.data())
@settings(fuzz, phases=[Phase.generate])
def test_damaged_about_json_of_a_prepared_folder(prepared: Callable[[], Any], data: st.DataObject) -> None:
    about = {"name": "a.txt", "held_out": None, "floor_bits_per_byte": None, "floor_is_exact": False}
    path = prepared().folder / "about.json"
    before = path.read_bytes()
    path.write_bytes(data.draw(mutated(about).map(str.encode) | damaged(before) | st.binary()))
    try:
        found = prepared()
    except ValueError as error:
        return check_one_line(error, path)
    finally:
        path.write_bytes(before)
    assert isinstance(found.name, str) and isinstance(found.floor_is_exact, bool)
    assert found.held_out is None or isinstance(found.held_out, str)
    assert found.floor_bits_per_byte is None or isinstance(found.floor_bits_per_byte, float)


@given(data=st.data())
@fuzz
def test_damaged_tokenizer_and_token_files_of_a_prepared_folder(prepared: Callable[[], Any], data: st.DataObject) -> None:
    folder = prepared().folder
    path = folder / data.draw(st.sampled_from(["tokenizer.json", "train.bin", "train.json", "valid.bin", "valid.json"]))
    before = path.read_bytes()
    content = mutated(json.loads(before)).map(str.encode) if path.suffix == ".json" else st.nothing()
    path.write_bytes(data.draw(content | damaged(before) | st.binary()))
    try:
        prepared()
    except ValueError as error:
        check_one_line(error, folder)
    finally:
        path.write_bytes(before)

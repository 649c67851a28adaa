"""Randomly damaged files of a run raise a ValueError of one line that names the file, or are read correctly."""

import copy
import json
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minigpt import GPT, ModelConfig, load
from minigpt.np.parameters import Moments
from minigpt.report import write_report
from minigpt.report.content import describe
from minigpt.report.files import load_run
from minigpt.report.markdown import markdown
from minigpt.runs.checkpoint import CHECKSUMS, TrainingState, load_config, load_model, load_state, save
from minigpt.runs.folder import RunFolder
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings
from minigpt.training.settings_file import read_settings

fuzz = settings(deadline=None, max_examples=120, database=None)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")

deep = st.sampled_from([100, 10_000]) | st.integers(500, 3000)
odd = (
    st.sampled_from(
        ["null", "true", "-1", "0", "1", "2", "1e308", "1e999", "NaN", '""', '"a"', '"a\\nb"', '"\\ud800"', "[]", "{}"]
    )
    | st.sampled_from([str(2**bits + more) for bits in (31, 32, 62, 63, 64) for more in (-1, 0)])
    | st.sampled_from(["9" * 5000, "9" * 400, "-" + "9" * 400, "1e100", "1e-320", "[1]", '{"a": [{}]}', '["a"]'])
    | deep.map(lambda n: "[" * n + "]" * n)
    | deep.map(lambda n: '{"a":' * n + "0" + "}" * n)
)


@st.composite
def mutated(draw: st.DrawFn, content: dict[str, Any]) -> str:
    """JSON objects in which one or two values are replaced by odd ones, deleted or duplicated."""
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
        how, before = draw(st.sampled_from(["replace", "replace", "replace", "leave out", "repeat"])), parent.pop(key)
        if how == "leave out":
            continue
        new = draw(odd)
        if how == "repeat":
            new = (
                f"{json.dumps(before)}, {json.dumps(key)}: {new}" if isinstance(parent, dict) else f"{json.dumps(before)}, {new}"
            )
        marks[f'"@{i}@"'] = new
        parent.update({key: f"@{i}@"}) if isinstance(parent, dict) else parent.insert(key, f"@{i}@")
    text = json.dumps(content)
    for mark in reversed(marks):
        text = text.replace(mark, marks[mark])
    return text


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Content with random bytes or letters overwritten, and possibly truncated."""
    letters = st.sampled_from(string.printable).map(str.encode) | st.binary(min_size=1, max_size=3)
    for new in draw(st.lists(letters, max_size=3)):
        i = draw(st.integers(0, len(content)))
        content = content[:i] + new + content[i + len(new) :]
    return content[: draw(st.sampled_from([len(content)] * 3 + [len(content) * 9 // 10, 10, 0]))]


def contents_for(content: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Contents of a file that should contain this JSON object."""
    real = json.dumps(content).encode()
    return st.just(real) | mutated(content).map(str.encode) | odd.map(str.encode) | damaged(real) | st.binary(max_size=50)


def assert_one_line(error: ValueError, *names: object) -> None:
    assert len(str(error).splitlines()) == 1
    assert all(str(name) in str(error) for name in names)


def assert_refused(call: Callable[[], object], *names: object) -> None:
    with pytest.raises(ValueError) as refused:
        call()
    assert_one_line(refused.value, *names)


def in_little_memory(code: str, *arguments: str) -> str:
    """Run code in a process that may allocate 256 MB after importing minigpt; return its output, or the ValueError it raised."""
    code = f"""
import resource, sys
from pathlib import Path
from minigpt.runs.checkpoint import load_config, load_model
from minigpt.training.settings_file import read_settings
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


# ------------------------------------------------------------------ config.toml

LONG_KEY = "data." + "a." * 20_000 + "a = 1"
TOML = st.sampled_from(
    [
        *(
            "1",
            "-1",
            "0",
            "1.5",
            "nan",
            "-inf",
            "1e308",
            "1e999",
            '"a"',
            '"a\\nb"',
            "true",
            "[]",
            '["a", 1]',
            "{a = 1}",
            "[[], {}]",
        ),
        *(
            "1979-05-27",
            "9" * 400,
            "9" * 5000,
            "0x" + "f" * 400,
            "0x" + "f" * 5000,
            str(2**63),
            str(2**63 - 1),
            "[0x" + "f" * 5000 + "]",
        ),
    ]
) | deep.flatmap(lambda n: st.sampled_from(["[" * n + "]" * n, "{a=" * n + "1" + "}" * n, "{" + "a." * 90 + "a={" * n]))


@st.composite
def toml_files(draw: st.DrawFn) -> bytes:
    """Contents of config.toml with odd values."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in asdict(Settings()).items() if value is not None]
    lines = [line for line in lines if draw(st.integers(0, 9))]
    name = st.sampled_from([*asdict(Settings()), "color", '"a\\nb"', "data.a", "[steps]\na", "a." * 50 + "a"])
    for _ in range(draw(st.integers(0, 2))):
        key = draw(name)
        lines = [line for line in lines if not line.startswith(f"{key} ")] + [f"{key} = {draw(TOML)}"]
    text = "\n".join(lines).encode()
    return draw(st.just(text) | damaged(text) | st.binary())


@given(content=toml_files())
@fuzz
def test_read_settings(scratch: Path, content: bytes) -> None:
    path = scratch / "config.toml"
    path.write_bytes(content)
    try:
        values = read_settings(path)
    except ValueError as error:
        return assert_one_line(error, path)
    for name, value in values.items():
        assert type(value) is type(getattr(Settings(), name)) or getattr(Settings(), name) is None
    try:
        assert all(getattr(resolve({}, path), name) == value for name, value in values.items())
    except ValueError as error:
        assert_one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        *("data = " + "[" * 10_000, "data = " + "{a=" * 10_000, "[" + "[a." * 10_000, LONG_KEY, "[" + LONG_KEY[5:-3] + "]"),
        *("x = {" + LONG_KEY + "}", LONG_KEY.replace("a", '"a\\""'), LONG_KEY.replace("a", "'a'"), LONG_KEY.replace(".", " .\t")),
        *("steps = " + "9" * 5000, "steps = 0x" + "f" * 5000, "lr = 1" + "0" * 400, "lr = 0x" + "f" * 5000, f"seed = {2**63}"),
        *("prompt = [0x" + "f" * 5000 + "]", "prompt = " + ("{" + "a." * 90 + "a = ") * 20 + "1" + "}" * 20),
    ],
    ids=lambda text: text[:20],
)
def test_a_configuration_with_huge_values_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert_refused(lambda: read_settings(tmp_path / "c.toml"), tmp_path / "c.toml")


def test_values_with_many_dots_are_read(tmp_path: Path) -> None:
    given = {"prompt": "And then ... " + "." * 300 + " 1.2.3.4.", "data": tuple(f"../a.{i}.txt" for i in range(300))}
    Settings(**given).save(tmp_path / "c.toml")
    assert resolve({}, tmp_path / "c.toml") == Settings(**given)


@pytest.mark.parametrize("text", ["steps = 0", 'preset = "huge"', "lr = inf"])
def test_an_invalid_value_is_refused_with_the_name_of_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert_refused(lambda: resolve({}, tmp_path / "c.toml"), tmp_path / "c.toml")


@on_linux
@pytest.mark.parametrize("text", [LONG_KEY, "[" + LONG_KEY[5:-3] + "]"], ids=["a key", "a table"])
def test_a_configuration_with_a_long_key_takes_little_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert "is not a TOML file" in in_little_memory("print(read_settings(Path(sys.argv[1])))", str(tmp_path / "c.toml"))


# ------------------------------------------------------------------ checkpoints

SMALL = ModelConfig(vocab_size=257, context_length=4, d_model=4, n_layers=1, n_heads=1, d_ff=2)
WIDTHS = {
    "F32": 4,
    "F64": 8,
    "F16": 2,
    "BF16": 2,
    "I8": 1,
    "BOOL": 1,
    "I64": 8,
    "U64": 8,
    "F8_E4M3": 1,
    "C64": 8,
    "F4": 1,
    "X": 4,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model, in a run with a tokenizer."""
    from minigpt.data.tokenizer import Tokenizer

    run, model = RunFolder(tmp_path_factory.mktemp("run")), GPT(SMALL)
    Tokenizer.bytes().save(run.tokenizer)
    return save(run, model, Moments(model.parameters.zeros_like(), model.parameters.zeros_like()), TrainingState(step=3))


def safetensors(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def header_and_data(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@st.composite
def weights(draw: st.DrawFn, path: Path) -> bytes:
    """Contents of model.safetensors that are odd in the header, the length, the configuration or any byte."""
    header, data = header_and_data(path)
    how = draw(st.sampled_from(["header", "length", "dtype", "shape", "configuration", "bytes"]))
    name = draw(st.sampled_from([name for name in header if name != "__metadata__"]))
    if how == "header":
        return safetensors(draw(mutated(header)), data)
    if how == "length":
        return safetensors(
            json.dumps(header), data, draw(st.sampled_from([0, 1, 10**8, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 5000))
        )
    if how == "dtype":
        header[name]["dtype"] = draw(st.sampled_from(list(WIDTHS)))
    elif how == "shape":
        header[name]["shape"] = draw(
            st.lists(st.sampled_from([0, 1, 4, 2**32, 2**63, 2**64 - 1, -1]), max_size=3) | st.just([1] * 70)
        )
        header[name]["data_offsets"] = draw(st.lists(st.sampled_from([0, 4, 16, 2**63, -1]), min_size=2, max_size=2))
    elif how == "configuration":
        header["__metadata__"]["config"] = draw(mutated(asdict(SMALL)) | odd)
    content = safetensors(json.dumps(header), data)
    return draw(damaged(content)) if how == "bytes" else content


def has_few_blocks(content: bytes) -> bool:
    return b'n_layers\\": 1,' in content or b"n_layers" not in content


def assert_refused_or_correct(path: Path) -> None:
    try:
        model = load_model(path)
    except ValueError as error:
        return assert_one_line(error, path)
    assert load_config(path) == model.config
    for name, array in load_file(path).items():
        if name in model.parameters:
            np.testing.assert_array_equal(model.parameters[name], array.astype(np.float32))


def tensor_of(dtype: str, shape: list[int], size: int) -> bytes:
    header = {"token_embedding": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    return safetensors(json.dumps(header | {"__metadata__": {"config": json.dumps(asdict(SMALL))}}), bytes(size))


def configured(config: str) -> bytes:
    return safetensors(json.dumps({"__metadata__": {"config": config}}))


UNREADABLE = {
    "bfloat16": tensor_of("BF16", [2], 4),
    "float8": tensor_of("F8_E4M3", [2], 2),
    "seventy dimensions": tensor_of("F32", [1] * 70, 4),
    "an empty tensor with a huge dimension": tensor_of("F32", [0, 2**64 - 1], 0),
    "a name of two lines": safetensors('{"a\\nb": {"dtype": "a\\nb", "shape": [], "data_offsets": [0, 0]}}'),
    "a setting of two lines": configured('{"a\\nb": 1}'),
    "a deep configuration": configured("[" * 10_000),
    "an epsilon that overflows": configured(json.dumps(asdict(SMALL) | {"norm_epsilon": 10**400})),
}


@pytest.mark.parametrize("what", [name for name in UNREADABLE if name != "an epsilon that overflows"])
def test_unreadable_weights_are_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(UNREADABLE[what])
    assert_refused(lambda: load_model(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")


def test_an_epsilon_that_overflows(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(UNREADABLE["an epsilon that overflows"])
    assert_refused(lambda: load_config(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")


@given(data=st.data(), known=st.none())
@example(data=None, known="bfloat16")
@fuzz
def test_load_model(scratch: Path, checkpoint: Path, data: st.DataObject, known: str | None) -> None:
    path = scratch / "model.safetensors"
    content = UNREADABLE[known] if known else data.draw(weights(checkpoint / "model.safetensors"))
    assume(has_few_blocks(content))  # many blocks: see HUGE below
    path.write_bytes(content)
    assert_refused_or_correct(path)


HUGE = {"vocab_size": 2**40, "context_length": 2**62, "d_ff": 2**50, "n_layers": 10**9}


@on_linux
@pytest.mark.parametrize("field", HUGE)
def test_a_small_file_that_claims_a_huge_model_takes_little_memory(tmp_path: Path, checkpoint: Path, field: str) -> None:
    header, data = header_and_data(checkpoint / "model.safetensors")
    header["__metadata__"]["config"] = json.dumps(asdict(SMALL) | {field: HUGE[field]})
    (tmp_path / "model.safetensors").write_bytes(safetensors(json.dumps(header), data))
    code = "load_config(Path(sys.argv[1])) and load_model(Path(sys.argv[1]))"
    assert "must have shape" in in_little_memory(code, str(tmp_path / "model.safetensors"))


@on_linux
@pytest.mark.parametrize("shape, size", [([2**62], 2**64 - 1), ([2**40], 2**42), ([0, 2**64 - 1], 0), ([2**62, 4], 0)], ids=str)
def test_a_small_file_that_claims_a_huge_tensor_takes_little_memory(tmp_path: Path, shape: list[int], size: int) -> None:
    header = {"token_embedding": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors(json.dumps(header)))
    assert in_little_memory("load_model(Path(sys.argv[1]))", str(tmp_path / "model.safetensors"))


@given(data=st.data())
@fuzz
def test_a_damaged_run_is_refused_or_loaded_correctly(scratch: Path, checkpoint: Path, data: st.DataObject) -> None:
    run = scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(checkpoint.parent.parent, run)
    name = data.draw(st.sampled_from(["model.safetensors", CHECKSUMS]))
    path = run / "checkpoints" / checkpoint.name / name
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary(max_size=100)))
    try:
        model, tokenizer = load(path.parent)
    except ValueError as error:
        return assert_one_line(error, path.parent)
    assert tokenizer
    np.testing.assert_array_equal(model.parameters.flat, GPT(SMALL).parameters.flat)


# ------------------------------------------------------------------- state.json


@given(content=contents_for(asdict(TrainingState(step=3, elapsed_s=1.5, val_loss=2.5))))
@example(content=b'{"a\\nb": 1}')
@fuzz
def test_load_state(scratch: Path, content: bytes) -> None:
    path = scratch / "state.json"
    path.write_bytes(content)
    try:
        state = load_state(scratch)
    except ValueError as error:
        return assert_one_line(error, path)
    for name, kind in TrainingState.__annotations__.items():
        assert type(getattr(state, name)) in (get_args(kind) or (kind,))


# ------------------------------------------------------------ records of a run

RECORD = {"step": 1, "tokens": 10, "loss": 3.0, "lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 5.0, "elapsed_s": 2.0}
MEASURED = {**RECORD, "step": 2, "tokens": 20, "val_loss": 2.9, "val_bits_per_byte": 1.5}
STORY = {"step": 2, "prompt": "One", "seed": 0, "temperature": 0.8, "top_k": None, "text": " day"}
SIZE = {"documents": 2, "bytes": 90, "tokens": 30}
ABOUT = {
    "command": "minigpt train",
    "version": "0.1.0",
    "parameters": 100,
    "data": {"name": "a.txt", "train": SIZE, "valid": SIZE, "floor_bits_per_byte": 0.5, "floor_is_exact": True},
    "machine": {"processor": "Quill", "cores": 2, "memory_gib": 7.5},
}


@given(content=contents_for(ABOUT))
@example(content=b"3")
@example(content=b"[" * 10_000)
@fuzz
def test_read_json(scratch: Path, content: bytes) -> None:
    (scratch / "run.json").write_bytes(content)
    try:
        found = RunFolder(scratch).read_json("run.json")
    except ValueError as error:
        return assert_one_line(error, scratch / "run.json")
    assert isinstance(json.loads(content), dict) and found.keys() == json.loads(content).keys()


@given(lines=st.lists(contents_for(RECORD), max_size=3))
@example(lines=[b"[" * 10_000, b"{}"])
@fuzz
def test_records(scratch: Path, lines: list[bytes]) -> None:
    (scratch / "metrics.jsonl").write_bytes(b"\n".join(lines))
    try:
        found = RunFolder(scratch).records("metrics.jsonl")
    except ValueError as error:
        return assert_one_line(error, scratch / "metrics.jsonl")
    assert all(isinstance(record, dict) for record in found)


def lines_of(*records: bytes) -> bytes:
    return b"".join(record + b"\n" for record in records)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, bytes]:
    """The files that a report needs, with odd content in one of them."""
    records = [json.dumps(RECORD).encode(), json.dumps(MEASURED).encode()]
    stories = [json.dumps(STORY).encode(), json.dumps(STORY | {"seed": 1}).encode()]
    files = {"metrics.jsonl": lines_of(*records), "samples.jsonl": lines_of(*stories)}
    files |= {"run.json": json.dumps(ABOUT).encode(), "config.toml": b"steps = 2\nlr = 0.1\n"}
    name = draw(st.sampled_from([*files, "metrics.jsonl"]))
    if name == "metrics.jsonl":
        files[name] = lines_of(draw(contents_for(RECORD)), draw(contents_for(MEASURED)))
    elif name == "samples.jsonl":
        files[name] = lines_of(stories[0], draw(contents_for(STORY)))
    else:
        files[name] = draw(contents_for(ABOUT) if name == "run.json" else toml_files())
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@given(files=runs())
@settings(fuzz, max_examples=200)
def test_describe_a_run(scratch: Path, files: dict[str, bytes]) -> None:
    folder = write(scratch / "described", files)
    try:
        run = load_run(folder)
    except ValueError as error:
        return assert_one_line(error, folder)
    assert markdown(describe(run)).startswith("# ")


@given(files=runs())
@settings(fuzz, max_examples=20)
@pytest.mark.filterwarnings("ignore")  # matplotlib warns of axes of zero length
def test_write_report(scratch: Path, files: dict[str, bytes]) -> None:
    folder = write(scratch / "reported", files)
    try:
        assert write_report(folder).is_file()
    except ValueError as error:
        assert_one_line(error, folder)


ODD_RECORDS = {
    **{name: {name: 10**400} for name in RECORD},
    "a time that is not a number": {"elapsed_s": None},
    "tokens that are not a number": {"tokens": None},
    "half a token": {"tokens": 1.5},
    "an infinite time": {"elapsed_s": float("inf")},
    "a loss too large to plot": {"loss": 1e308},
    "a step too large to plot": {"step": 2**63},
}


@pytest.mark.parametrize("what", ODD_RECORDS)
def test_an_invalid_number_in_a_record_is_refused(tmp_path: Path, what: str) -> None:
    record = json.dumps({**RECORD, **ODD_RECORDS[what]}).encode()
    files = {"metrics.jsonl": lines_of(record), "run.json": json.dumps(ABOUT).encode(), "config.toml": b""}
    assert_refused(lambda: write_report(write(tmp_path, files)), tmp_path / "metrics.jsonl")


ODD_FILES = {
    "a deep line": {"metrics.jsonl": b"[" * 10_000},
    "a deep run.json": {"run.json": b"[" * 10_000},
    "a deep machine": {"run.json": json.dumps({**ABOUT, "machine": {"a": [[[]]]}}).encode()},
    "an infinite floor": {"run.json": json.dumps(ABOUT).replace("0.5", "1e999").encode()},
    "a huge number of tokens": {"run.json": json.dumps(ABOUT).replace("30", "9" * 400).encode()},
    "a deep setting": {"config.toml": b"a = " + b"[" * 10_000},
    "a table": {"config.toml": b"a.b.c = 1"},
    "a long key": {"config.toml": LONG_KEY.encode()},
    "a setting of many digits": {"config.toml": b"a = 0x" + b"f" * 5000},
}


@pytest.mark.parametrize("what", ODD_FILES)
def test_an_invalid_file_of_a_run_is_refused(tmp_path: Path, what: str) -> None:
    files = {"metrics.jsonl": lines_of(json.dumps(RECORD).encode()), "run.json": json.dumps(ABOUT).encode(), "config.toml": b""}
    folder, name = write(tmp_path, files | ODD_FILES[what]), next(iter(ODD_FILES[what]))
    assert_refused(lambda: write_report(folder), folder if what == "a deep line" else folder / name)

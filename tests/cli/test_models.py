"""The commands that use a model: sample, eval, info, export and import."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minigpt import GPT, ModelConfig, __version__, load
from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.text import stream_text
from minigpt.interop.hugging_face import export
from minigpt.np.sampling import SamplingOptions
from minigpt.runs.checkpoint import save_model
from minigpt.runs.folder import RunFolder

Result = tuple[int, str, str]
Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[str]]
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process, and other pipes")
LINE = f"{'-' * 40}\n"
OPTIONS: list[tuple[list[object], SamplingOptions]] = [
    (["--greedy"], {}),
    (["--greedy", "--temperature", 2], {}),
    (["--temperature", 0], {}),
    (["--temperature", 3, "--top-k", 0], {"temperature": 3.0}),
    (["--temperature", 3, "--top-k", 3], {"temperature": 3.0, "top_k": 3}),
    (["--temperature", 3, "--top-k", 0, "--top-p", 0.7], {"temperature": 3.0, "top_p": 0.7}),
    (["--temperature", 3, "--top-k", 0, "--min-p", 0.3], {"temperature": 3.0, "min_p": 0.3}),
    (["--greedy", "--repetition-penalty", 1.5], {"repetition_penalty": 1.5}),
    ([], {"temperature": 0.8, "top_k": 40}),
]


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


# ------------------------------------------------------------------ text


def test_the_seed_determines_the_sample(run: Run, trained: Path) -> None:
    arguments = ("sample", trained, "--prompt", "Tom saw", "--max-new-tokens", 30)
    first, again, other = (run(*arguments, "--seed", seed) for seed in (3, 3, 4))
    assert first == again != other
    code, out, err = first
    assert (code, err) == (0, "")
    assert out.startswith("Tom saw")


def test_the_words_after_the_run_are_the_prompt(run: Run, trained: Path) -> None:
    expected = run("sample", trained, "--prompt", "Tom saw", "--max-new-tokens", 10)
    assert expected[1].startswith("Tom saw")
    for words in (["Tom saw"], ["Tom", "saw"]):
        assert run("sample", trained, *words, "--max-new-tokens", 10) == expected
        assert run("sample", "--max-new-tokens", 10, trained, *words) == expected
    assert run("sample", trained, "", "--max-new-tokens", 10) == run("sample", trained, "--max-new-tokens", 10)


@pytest.mark.parametrize("prompt", ["Tom", ""])
def test_several_samples_equal_single_ones_with_consecutive_seeds(run: Run, trained: Path, prompt: str) -> None:
    arguments = ("sample", trained, "--prompt", prompt, "--max-new-tokens", 20)
    separate = [run(*arguments, "--seed", seed)[1] for seed in (5, 6, 7)]
    assert len(set(separate)) == 3
    assert run(*arguments, "--seed", 5, "-n", 3) == (0, LINE.join(separate), "")


def test_sample_stops_at_the_end_of_text(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load(trained)
    assert tokenizer
    model.parameters.flat[...] = 0
    for name in ("token_embedding", "final_norm.gamma"):
        model.parameters[name][...] = 1
    model.parameters["head"][tokenizer.end_of_text] = 1  # now always the most likely token
    monkeypatch.setattr("minigpt.interop.load.load", lambda run: (model, tokenizer))
    assert run("sample", trained, "--prompt", "Tom", "--greedy") == (0, "Tom\n", "")


def test_top_k_of_zero_is_all_tokens(run: Run, trained: Path) -> None:
    everything = run("sample", trained, "--temperature", 3, "--top-k", 0, "--max-new-tokens", 30)
    assert everything == run("sample", trained, "--temperature", 3, "--top-k", 257, "--max-new-tokens", 30)
    assert everything != run("sample", trained, "--temperature", 3, "--top-k", 2, "--max-new-tokens", 30)


def test_a_stop_string_ends_the_text_and_is_not_printed(run: Run, trained: Path) -> None:
    arguments = ("sample", trained, "--prompt", "Tom", "--greedy", "--stop-token", 255, "--max-new-tokens", 40)
    text = run(*arguments)[1].rstrip("\n")
    stop, other = text[10:12], text[20:22]
    indices = [index for s in (stop, other) if (index := text.find(s, 3)) >= 0]
    assert run(*arguments, "--stop", stop) == (0, text[: text.index(stop, 3)] + "\n", "")
    assert run(*arguments, "--stop", other, "--stop", stop) == (0, text[: min(indices)] + "\n", "")


def test_a_stop_token_replaces_the_end_of_text(run: Run, trained: Path) -> None:
    arguments = ("sample", trained, "--greedy", "--max-new-tokens", 40)
    text = run(*arguments, "--stop-token", 255)[1].rstrip("\n")
    assert run(*arguments, "--stop-token", 255, "--stop-token", ord(text[3])) == (0, text[: text.index(text[3])] + "\n", "")


@pytest.mark.parametrize("more", [(), ("--show-probabilities",)], ids=["text", "probabilities"])
def test_ids_that_the_tokenizer_does_not_have_are_never_sampled(run: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
    """The vocabulary size of a model is often rounded up."""
    model = GPT(ModelConfig(vocab_size=1000, context_length=16, d_model=8, n_layers=1, n_heads=2))
    export(model, Tokenizer.bytes(), tmp_path / "exported")
    code, _, err = run("sample", tmp_path / "exported", "--max-new-tokens", 60, "--top-k", 0, "--stop-token", 256, *more)
    assert (code, err) == (0, "")


# ------------------------------------------------------------- token ids


@pytest.mark.parametrize("words, options", OPTIONS, ids=[" ".join(map(str, words)) or "defaults" for words, _ in OPTIONS])
def test_prompt_ids_give_the_ids_that_the_model_generates(
    run: Run, directory: Path, words: list[object], options: SamplingOptions
) -> None:
    model, _ = load(directory)
    expected = model.generate([[3, 1, 4]], 20, seeds=7, **options)[0][3:]
    printed = " ".join(map(str, expected)) + "\n"
    assert run("sample", directory, "--prompt-ids", 3, 1, 4, "--max-new-tokens", 20, "--seed", 7, *words) == (0, printed, "")
    if options:
        assert not np.array_equal(expected, model.generate([[3, 1, 4]], 20)[0][3:])  # the flags have an effect


def test_the_ids_of_each_sample_are_one_line(run: Run, directory: Path) -> None:
    model, _ = load(directory)
    rows = model.generate([[3, 1]] * 3, 40, seeds=2, stop_tokens=[7, 9], temperature=0.8, top_k=40)
    assert len({len(row) for row in rows}) == 3
    printed = "".join(" ".join(map(str, row[2:])) + "\n" for row in rows)
    words = ("--prompt-ids", 3, 1, "-n", 3, "--seed", 2, "--max-new-tokens", 40, "--stop-token", 7, "--stop-token", 9)
    assert run("sample", directory, *words) == (0, printed, "")


def test_prompt_ids_can_be_used_with_a_tokenizer(run: Run, trained: Path) -> None:
    expected = load(trained)[0].generate([[84, 111]], 10)[0][2:]
    out = run("sample", trained, "--prompt-ids", 84, 111, "--greedy", "--max-new-tokens", 10)[1]
    assert out.split() == [str(token) for token in expected]


def test_overflow_is_refused_only_if_the_text_is_too_long(run: Run, directory: Path) -> None:
    words = ("sample", directory, "--prompt-ids", 3, 1, "--greedy", "--overflow")
    assert run(*words, "refuse", "--max-new-tokens", 30) == run(*words, "slide", "--max-new-tokens", 30)
    code, out, err = run(*words, "refuse", "--max-new-tokens", 31)
    assert (code, out) == (2, "")
    assert err == "minigpt: the longest prompt and 31 new tokens make 33, but the model's context_length is 32\n"


@pytest.mark.parametrize("command", [("sample",), ("sample", "--prompt", "Tom"), ("sample", "--show-probabilities")])
def test_without_a_tokenizer_the_error_suggests_prompt_ids(run: Run, directory: Path, command: tuple[str, ...]) -> None:
    code, out, err = run(command[0], directory, *command[1:])
    assert (code, out) == (2, "")
    assert err == f"minigpt: {directory} has no tokenizer (tokenizer.json): give the prompt as --prompt-ids\n"


# --------------------------------------------------------- probabilities


@pytest.mark.parametrize("words", [("--greedy",), ("--temperature", 3, "--top-k", 0, "--seed", 4)], ids=["greedy", "sampled"])
def test_probabilities_are_those_of_the_model(run: Run, directory: Path, words: tuple[object, ...]) -> None:
    command = ("sample", directory, "--prompt-ids", 3, 1, 4, "--max-new-tokens", 12, *words)
    code, out, err = run(*command, "--show-probabilities")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    model, ids = load(directory)[0], [3, 1, 4]
    for line in out.splitlines():
        figures = [(int(token), float(share)) for token, share in re.findall(r"(\d+) (\d+\.\d)%", line)]
        own = re.match(r" *(\d+\.\d)%  (\d+) {22,}  ", line)
        assert own, line
        p, token = softmax(model.logits([ids])[0, -1].astype(np.float64)), int(own[2])
        assert float(own[1]) == pytest.approx(100 * p[token], abs=0.051)
        assert [other for other, _ in figures] == [i for i in np.argsort(-p)[:5] if i != token][:4]
        assert [share for _, share in figures] == pytest.approx([100 * p[other] for other, _ in figures], abs=0.051)
        ids.append(token)
    assert run(*command)[1].split() == [str(token) for token in ids[3:]]


def test_probabilities_of_text_are_printed_with_the_text_of_the_tokens(run: Run, trained: Path) -> None:
    words = ("--greedy", "--stop-token", 255, "--max-new-tokens", 8, "-n", 2)
    _, out, _ = run("sample", trained, "--prompt", "Tom", "--show-probabilities", *words)
    model, tokenizer = load(trained)
    assert tokenizer
    new = model.generate([[tokenizer.begin_of_text, *b"Tom"]], 8)[0][4:]
    names = [repr(tokenizer.decode([int(token)])) for token in new]
    assert [line[9:33].rstrip() for line in out.splitlines()] == names * 2


# -------------------------------------------------------- eval and info


def recomputed(run: Path, text_file: Path) -> dict[str, Any]:
    """Return the result of `eval`, computed directly: each token is predicted from the tokens of its window before it."""
    model, _ = load(run)
    texts = text_file.read_text(encoding="utf-8").split("\n<|endoftext|>\n")
    ids = np.array([id for text in texts for id in (*text.encode(), 256)])
    losses, correct = [], 0
    for start in range(0, len(ids) - 1, 16):
        targets = ids[start + 1 : start + 17]
        p = softmax(model.logits(ids[None, start : start + len(targets)])[0].astype(np.float64))
        losses += [-math.log(p[t, target]) for t, target in enumerate(targets)]
        correct += int((p.argmax(-1) == targets).sum())
    loss, n_bytes = float(np.mean(losses)), len(ids) - len(texts)
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2) * len(ids) / n_bytes,
        "accuracy": correct / len(losses),
        "tokens": len(ids) - 1,
    }


def test_eval_prints_text_or_json(run: Run, trained: Path, text_file: Path) -> None:
    code, out, err = run("eval", trained, "--data", text_file, "--json")
    assert (code, err) == (0, "")
    expected = recomputed(trained, text_file)
    found = json.loads(out)
    assert found.pop("data") == str(text_file)
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == list(expected)
    assert 0.1 < expected["accuracy"] < 0.9
    loss, perplexity, bits, accuracy, tokens = expected.values()
    lines = (
        f"measured on {text_file}: {tokens:,} tokens\n"
        f"loss {loss:.4f} nats per token, {bits:.4f} bits per byte, perplexity {perplexity:.2f}\n"
        f"accuracy {accuracy:.1%} (how often the most likely token was correct)\n"
    )
    for words in (["--data", text_file], [text_file]):
        assert run("eval", trained, *words, "--threads", 1) == (0, lines, "")


# ------------------------------------------- eval of the validation text


def held_out(text_file: Path, folder: Path) -> Path:
    """Write the documents that training holds out, every 20th one, to a file."""
    documents = text_file.read_text(encoding="utf-8").split("\n<|endoftext|>\n")
    path = folder / "held-out.txt"
    path.write_text("\n<|endoftext|>\n".join(documents[1::20]), encoding="utf-8")
    return path


def evaluated(run: Run, *words: object) -> dict[str, Any]:
    code, out, err = run("eval", *words, "--json", "--threads", 1)
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_without_data_eval_measures_the_validation_text_of_the_run(
    run: Run, trained: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = evaluated(run, trained, "--data", held_out(text_file, tmp_path))
    found = evaluated(run, trained)
    assert found == same | {"data": f"the validation text of {trained}"}
    assert found["loss"] == pytest.approx(RunFolder(trained).records("metrics.jsonl")[-1]["val_loss"], rel=0.01)  # 200 tokens
    _, out, _ = run("eval", trained)
    assert out.startswith(f"measured on the validation text of {trained}: {found['tokens']:,} tokens\n")
    checkpoint = trained / "checkpoints" / "step-000008"
    assert evaluated(run, checkpoint) == found
    monkeypatch.chdir(checkpoint)
    assert evaluated(run, ".") == found
    older = evaluated(run, trained / "checkpoints" / "step-000004")
    assert older["loss"] != found["loss"] and older["data"] == found["data"]


@pytest.fixture
def own(run: Run, text_file: Path, tmp_path: Path, flags: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in the current folder, with its text in a file of the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(text_file, "my.txt")
    assert run("train", "my.txt", *flags(steps=1), "--out", "run")[0] == 0
    return tmp_path


def test_text_that_was_changed_or_moved_is_not_measured(run: Run, own: Path) -> None:
    text = Path("my.txt").read_text(encoding="utf-8")
    Path("my.txt").write_text(text.replace("Tom", "Ann"), encoding="utf-8")
    remedy = "give a text with --data"
    changed = f"the data of run has changed, so its validation text is no longer there: {remedy}"
    assert run("eval", "run") == (2, "", f"minigpt: {changed}\n")
    Path("my.txt").rename("other.txt")
    missing = "the validation text of run cannot be read (no such file or folder: my.txt): run the command in the folder where it"
    assert run("eval", "run") == (2, "", f"minigpt: {missing} was trained, or {remedy}\n")
    Path("my.txt").write_text(text, encoding="utf-8")
    assert run("eval", "run")[0] == 0


def test_a_model_that_was_not_trained_here_has_no_validation_text(run: Run, own: Path, speaker: Path) -> None:
    assert run("import", speaker, "imported")[0] == 0
    for where in (speaker, "imported", "imported/checkpoints/step-000000"):
        code, out, err = run("eval", where)
        folder = "imported" if str(where).startswith("imported") else where
        reason = f"{folder} has no config.toml, so it has no validation text of its own: give a text with --data"
        assert (code, out, err) == (2, "", f"minigpt: {reason}\n")


def test_eval_needs_a_tokenizer(run: Run, directory: Path, text_file: Path) -> None:
    code, _, err = run("eval", directory, "--data", text_file)
    assert (code, err) == (2, f"minigpt: {directory} has no tokenizer (tokenizer.json)\n")


def facts(out: str) -> dict[str, str]:
    return {name: value for name, value in (line.split(maxsplit=1) for line in out.splitlines())}


def test_info_describes_the_machine_or_a_model(run: Run, trained: Path, directory: Path) -> None:
    _, out, _ = run("info")
    assert out.splitlines()[0].split() == ["minigpt", __version__]
    assert "numpy" in out
    for where in (trained, trained / "checkpoints" / "step-000008"):
        model_facts = facts(run("info", where)[1])
        assert (model_facts["d_model"], model_facts["dropout"], model_facts["vocab_size"]) == ("16", "0.1", "257")
        assert model_facts["model"].endswith("step-000008")
    model_facts = facts(run("info", directory)[1])
    assert (model_facts["model"], model_facts["context_length"], model_facts["vocab_size"]) == (
        str(directory.resolve()),
        "32",
        "37",
    )
    assert model_facts["parameters"] == f"{load(directory)[0].parameters.flat.size:,}"


# ------------------------------------------------------ export, import


def test_an_exported_and_imported_model_is_the_same(run: Run, trained: Path, text_file: Path, tmp_path: Path) -> None:
    exported, imported = tmp_path / "my directory", tmp_path / "my run"
    code, out, err = run("export", trained, exported)
    assert (code, err) == (0, "")
    assert out == f"Written to {exported}: transformers.AutoModelForCausalLM.from_pretrained({str(exported)!r})\n"
    code, out, err = run("import", exported, imported)
    assert (code, err) == (0, "")
    parameters = load(trained)[0].parameters.flat.size
    assert out == f"{parameters:,} parameters written to {imported}: minigpt sample '{imported}'\n"
    for words in (("sample", "--prompt", "Tom saw", "-n", 2), ("eval", "--data", text_file, "--json")):
        results = [run(words[0], where, *words[1:]) for where in (trained, exported, imported)]
        assert results[0] == results[1] == results[2]
        assert results[0][0] == 0


def test_an_unsupported_model_is_not_exported(run: Run, text_file: Path, tmp_path: Path, flags: Callable[..., Any]) -> None:
    words = flags(steps=1, norm_placement="post", n_kv_heads=1)
    assert run("train", "--data", text_file, *words, "--out", tmp_path / "run")[0] == 0
    code, _, err = run("export", tmp_path / "run", tmp_path / "out")
    assert code == 2
    assert err.startswith("minigpt: the model is neither a Qwen 3 (norm_placement is 'post'), a Llama (")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------- weights that are not finite


@pytest.fixture(params=["run", "directory"])
def broken(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> Path:
    """A model in which one weight of the last block is NaN, and one of the final norm infinite."""
    model, tokenizer = load(trained)
    model.parameters["blocks.0.feed_forward.up.weight"][3, 5] = np.nan
    model.parameters["final_norm.gamma"][2] = np.inf
    if request.param == "directory":
        export(model, tokenizer, tmp_path / "broken")
        return tmp_path / "broken"
    broken = Path(shutil.copytree(trained, tmp_path / "broken"))
    for checkpoint in (broken / "checkpoints").iterdir():
        (checkpoint / "SHA256SUMS").unlink()
        save_model(model, checkpoint / "model.safetensors")
    return broken


@pytest.mark.parametrize("words", [(), ("--top-k", 0), ("--show-probabilities",), ("--greedy",), ("--prompt-ids", 1)], ids=str)
def test_sample_names_the_first_tensor_that_is_not_finite(run: Run, broken: Path, words: tuple[object, ...]) -> None:
    message = f"minigpt: {broken}: blocks.0.feed_forward.up.weight has weights that are not finite (NaN or infinite)\n"
    assert run("sample", broken, *words) == (1, "", message)


def test_eval_names_the_first_tensor_that_is_not_finite(run: Run, broken: Path, text_file: Path) -> None:
    message = f"minigpt: {broken}: blocks.0.feed_forward.up.weight has weights that are not finite (NaN or infinite)\n"
    for flags in ((), ("--json",)):
        assert run("eval", broken, "--data", text_file, *flags) == (1, "", message)


def test_info_and_export_work_with_weights_that_are_not_finite(run: Run, broken: Path, tmp_path: Path) -> None:
    code, out, err = run("info", broken)
    assert (code, err) == (0, "") and "n_layers         1\n" in out
    code, out, err = run("export", broken, tmp_path / "exported")
    assert code == 0 and "Written to" in out
    assert re.fullmatch(r"minigpt: warning: .*: blocks.0.feed_forward.up.weight has weights .* exported as they are\n", err)
    np.testing.assert_array_equal(load(tmp_path / "exported")[0].parameters.flat, load(broken)[0].parameters.flat)


def test_activations_that_overflow_are_an_error(run: Run, trained: Path, text_file: Path, tmp_path: Path) -> None:
    model, tokenizer = load(trained)
    model.parameters["final_norm.gamma"][...] = 1e38
    model.parameters["head"][...] *= 1e4
    export(model, tokenizer, tmp_path / "large")
    with np.errstate(all="ignore"):
        for flags in ((), ("--top-k", 0), ("--show-probabilities",), ("--greedy",)):
            code, _, err = run("sample", tmp_path / "large", *flags)
            assert (code, err.count("\n")) == (1, 1) and "the logits of the next token are not finite" in err
        code, out, err = run("eval", tmp_path / "large", "--data", text_file, "--threads", 1)
    assert (code, out, err.count("\n")) == (1, "", 1) and "the loss is not finite" in err


# --------------------------------------------------------- control characters

CLIPBOARD = "\x1b]52;c;cHduZWQ=\x07"
"An escape sequence that writes to the clipboard of many terminals."
HOSTILE = f"{CLIPBOARD}\x9b31m\x08\x7f\r\u202egnp.exe\u2066"


def shown(text: str) -> str:
    """Return what of a text is printed."""
    return "".join("\ufffd" if c in "\x1b\x07\x9b\x08\x7f\r\u202e\u2066" else c for c in text)


def check_printable(*streams: str) -> None:
    """Check that no character of an output can control a terminal."""
    for text in streams:
        assert [c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs")] == []


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes that says HOSTILE: the position determines the next byte."""
    text = HOSTILE.encode()
    model = GPT(ModelConfig(vocab_size=257, context_length=len(text) + 2, d_model=64, n_layers=1, n_heads=1))
    p = model.parameters
    p.flat[...] = 0
    p["final_norm.gamma"][...] = 1
    p["token_embedding"][...] = np.random.default_rng(0).standard_normal((257, 64)) / 8
    p["position_embedding"][: len(text) + 1] = 100 * p["token_embedding"][[*text, 256]]
    path = tmp_path_factory.mktemp("speaker") / "model"
    export(model, Tokenizer.bytes(), path)
    return path


def test_generated_control_characters_are_not_printed(run: Run, speaker: Path) -> None:
    """Neither are those of the prompt. They are generated nevertheless: what is written to files stays as it is."""
    assert "".join(stream_text(*load(speaker), temperature=0)) == HOSTILE
    code, out, err = run("sample", speaker, "--greedy")
    assert (code, out, err) == (0, shown(HOSTILE) + "\n", "")
    code, out, err = run("sample", speaker, "--greedy", "-n", 2, "--prompt", "\x1b\r\n")
    assert (code, err) == (0, "") and out.startswith("\ufffd\n")
    check_printable(out)
    code, out, err = run("sample", speaker, "--greedy", "--show-probabilities", "--stop-token", 256)
    assert (code, err) == (0, "") and "'\\x1b'" in out
    check_printable(out)


@POSIX
def test_on_a_terminal_a_sample_of_the_training_is_printable(
    minigpt: Callable[..., list[str]], speaker: Path, text_file: Path, tmp_path: Path
) -> None:
    """The display writes escape sequences of its own there, but none of the text. The file has the text as it is."""
    words = (
        "--init",
        speaker,
        "--steps",
        1,
        "--lr",
        1e-9,
        "--eval-tokens",
        100,
        "--threads",
        1,
        "--sample-every",
        1,
        "--samples",
        1,
    )
    primary, terminal = os.openpty()
    with subprocess.Popen(
        minigpt("train", "--data", text_file, *words, "--out", tmp_path / CLIPBOARD), stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        output = b"".join(iter(lambda: read_terminal(primary), b""))
    os.close(primary)
    assert process.returncode == 0
    records = (tmp_path / CLIPBOARD / "samples.jsonl").read_text("utf-8").splitlines()
    text = output.decode()
    assert any(json.loads(line)["text"].endswith(HOSTILE) for line in records)
    assert "\x1b]" not in text and "\ufffd]52;c;" in text
    assert [c for c in text if c not in "\n\t\r\x1b" and unicodedata.category(c) in ("Cc", "Cf", "Cs")] == []


def read_terminal(primary: int) -> bytes:
    """Return output of the program on the other side of a terminal, or nothing if it has ended."""
    try:
        return os.read(primary, 1 << 16)
    except OSError:  # Linux
        return b""


@POSIX
def test_hostile_names_are_not_printed_raw(
    run: Run, minigpt: Callable[..., list[str]], flags: Callable[..., list[object]], speaker: Path, tmp_path: Path
) -> None:
    """Names of runs, texts, tensors and files, and the values of a configuration."""
    folder = tmp_path / HOSTILE
    data = tmp_path / f"{HOSTILE}.txt"
    data.write_text("Once upon a time.\n<|endoftext|>\n" * 40, encoding="utf-8")
    train = ("train", "--data", data, *flags(steps=2, sample_every=1, threads=1), "--out", folder)
    done = subprocess.run(minigpt(*train), capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0 and done.stdout.count(shown(HOSTILE)) >= 2
    check_printable(done.stdout, done.stderr)
    directory = Path(shutil.copytree(speaker, tmp_path / f"{HOSTILE}-2"))
    results = [
        run("info", folder),
        run("sample", folder, "--max-new-tokens", 5),
        run("eval", folder, "--data", data, "--threads", 1),
        run("export", folder, tmp_path / f"{HOSTILE}-3"),
        run("import", directory, tmp_path / f"{HOSTILE}-4"),
        run("report", folder),
        run("prepare", "--data", data, "--tokenizer", "bytes", "--context-length", 8),
        run("train", "--out", folder, "--resume", "--steps", 3),
    ]
    assert [code for code, _, _ in results] == [0] * len(results)
    tensors = load_file(directory / "model.safetensors")
    errors = [run("train", "--data", tmp_path / HOSTILE / "no.txt"), run("sample", folder, "--prompt-ids", 999)]
    save_file(tensors | {HOSTILE: np.zeros(1, np.float32)}, directory / "model.safetensors")
    errors.append(run("info", directory))
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": HOSTILE}}), encoding="utf-8")
    errors.append(run("sample", directory))
    (directory / "config.json").write_text(json.dumps({"model_type": HOSTILE}), encoding="utf-8")
    errors += [run("sample", directory), run(HOSTILE), run("sample", folder, f"--{HOSTILE}")]
    assert [(code, err.count("\n")) for code, _, err in errors] == [(2, 1)] * len(errors)
    check_printable(*(text for _, *streams in results + errors for text in streams))


# ------------------------------------------------------ signals and pipes


@POSIX
def test_ctrl_c_during_generation_prints_one_line(start: Start, trained: Path) -> None:
    process = start("sample", trained, "--greedy", "--stop-token", 255, "--max-new-tokens", 10**6, "-n", 2)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "minigpt: interrupted\n")


@POSIX
@pytest.mark.parametrize("more", [(), ("--show-probabilities",)], ids=["text", "probabilities"])
def test_a_closed_pipe_is_not_an_error(start: Start, trained: Path, more: tuple[str, ...]) -> None:
    process = start("sample", trained, "--greedy", "--stop-token", 255, "--max-new-tokens", 10**6, *more)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141

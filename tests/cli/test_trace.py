"""The command `trace`."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT, ModelConfig, load
from minigpt.cli import trace
from minigpt.data.tokenizer import Tokenizer
from minigpt.runs.checkpoint import save_model

Run = Callable[..., tuple[int, str, str]]


def test_json_has_the_numbers_of_the_trace(run: Run, trained: Path) -> None:
    code, out, err = run("trace", trained, "Tom saw", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    model, tokenizer = load(trained)
    assert tokenizer is not None
    t = model.trace([[tokenizer.begin_of_text, *b"Tom saw"]])
    assert found["tokens"] == list("Tom saw")
    assert found["loss"] == pytest.approx(t.loss)
    np.testing.assert_allclose(found["surprise"], t.surprise()[0, :-1])
    assert sum(found["surprise"]) / 7 == pytest.approx(t.loss / math.log(2), rel=1e-6)
    assert found["storybook"] is None
    assert len(found["gradient_flow"]) == len(found["predictions"]) == 2
    likeliest = t.probabilities()[0, :-1].argmax(-1)
    assert [token for token, _ in found["predictions"][-1]] == [tokenizer.decode([int(i)]) for i in likeliest]
    np.testing.assert_allclose([p for _, p in found["predictions"][-1]], t.probabilities()[0, :-1].max(-1), rtol=1e-5)


def test_the_page(run: Run, trained: Path) -> None:
    code, out, err = run("trace", trained, "Tom", "saw")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.match(r"7 tokens, \d\.\d+ nats or \d\.\d+ bits per token; \d+ arrays, 0\.\d MiB with gradients$", lines[0])
    assert lines[2].split() == ["token", "surprise", "embedding", "after", "block", "0"]
    assert [line.split()[0] for line in lines[3:6]] == ["'T'", "'o'", "'m'"]
    assert lines[10].startswith("mean ") and "█" in out
    assert max(map(len, lines)) <= 80


def test_text_of_the_storybook_has_its_information_content(run: Run, trained: Path) -> None:
    found = json.loads(run("trace", trained, "Once upon a tim", "--json")[1])
    assert found["storybook"][0] > 0 and found["storybook"][-1] == 0
    code, out, _ = run("trace", trained, "Once upon a tim")
    assert code == 0 and out.splitlines()[2].split()[:3] == ["token", "surprise", "storybook"]


def test_a_token_inside_a_character(run: Run, trained: Path) -> None:
    code, out, _ = run("trace", trained, "Zoë")
    assert code == 0 and "b'\\xc3'" in out


def test_a_narrow_terminal_shows_the_last_block(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "after block 0" in run("trace", trained, "Tom")[1]


def test_many_blocks_are_thinned_out(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(ModelConfig(vocab_size=257, context_length=16, d_model=8, n_layers=9, n_heads=1))
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    save_model(model, tmp_path / "checkpoints" / "step-000001" / "model.safetensors")
    Tokenizer.bytes().save(tmp_path / "tokenizer.json")
    monkeypatch.setenv("COLUMNS", "100")
    header = run("trace", tmp_path, "Tom")[1].splitlines()[2]
    assert re.findall(r"embedding|block \d", header) == ["embedding", "block 3", "block 8"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["Tom saw a very long kite"], "the text has 24 tokens, but the model's context_length is 16"),
        ([], "the text is empty"),
        ([""], "the text is empty"),
    ],
)
def test_invalid_text(run: Run, trained: Path, words: list[str], message: str) -> None:
    code, out, err = run("trace", trained, *words)
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1


def test_a_model_without_a_tokenizer(run: Run, directory: Path) -> None:
    code, _, err = run("trace", directory, "Tom")
    assert code == 2 and "has no tokenizer" in err


def test_bars() -> None:
    assert trace._bar(8, 8, 4) == "████" and trace._bar(0, 8, 4) == "" and trace._bar(0, 0, 4) == ""
    assert len(trace._bar(1e-9, 1, 4)) == 0

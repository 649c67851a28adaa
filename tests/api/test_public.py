"""The public names: completion, star import, loading and saving models, and short reprs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import TINY_MODEL

import minigpt
from minigpt import GPT, ModelConfig, Tokenizer
from minigpt.np.config import LLAMA

CONFIG = ModelConfig(vocab_size=257, context_length=16, d_model=16, n_layers=2, n_heads=2)


def test_dir_has_the_public_names_and_no_others() -> None:
    names = [name for name in dir(minigpt) if not name.startswith("__")]
    assert names == sorted(minigpt.__all__)
    assert names == ["GPT", "ModelConfig", "Run", "Tokenizer", "load", "open_run", "preset", "train"]
    assert {"__version__", "__doc__", "__path__"} <= set(dir(minigpt))


def test_star_imports_the_public_names() -> None:
    found: dict[str, object] = {}
    exec("from minigpt import *", found)
    assert set(found) - {"__builtins__"} == set(minigpt.__all__)


@pytest.mark.parametrize("config", [{}, {**LLAMA, "tied": False}], ids=["gpt2", "llama"])
def test_a_model_is_saved_and_loaded_with_its_tokenizer(config: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = GPT(replace(CONFIG, **config), seed=1), Tokenizer.bytes()
    model.save_pretrained(tmp_path / "saved", tokenizer)
    loaded = GPT.from_pretrained(tmp_path / "saved")
    assert np.array_equal(loaded.logits([[1, 2, 3]]), model.logits([[1, 2, 3]]))
    assert loaded.config == model.config
    with_tokenizer, found = minigpt.load(str(tmp_path / "saved"))
    assert with_tokenizer.config == model.config and found is not None
    assert (found.encode("Zoë"), found.end_of_text) == (tokenizer.encode("Zoë"), 256)
    with pytest.raises(ValueError, match="already exists and is not an empty folder"):
        model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(str(tmp_path / "no tokenizer"))
    assert minigpt.load(tmp_path / "no tokenizer")[1] is None


def test_a_model_is_loaded_from_a_run_by_path_and_by_name(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(tiny_run, target_is_directory=True)
    by_path, by_name = GPT.from_pretrained(tiny_run), GPT.from_pretrained("mine")
    assert np.array_equal(by_path.parameters.flat, by_name.parameters.flat)


def test_the_reprs_are_short_and_have_sizes() -> None:
    model = GPT(CONFIG)
    _, gradients = model.loss_and_grads([[1, 2]], [[2, 3]])
    n = sum(array.size for array in model.parameters.values())
    assert model.num_parameters() == n == 10_960
    assert repr(model) == "GPT(10,960 parameters, float32: vocab_size=257, context_length=16, d_model=16, n_layers=2, n_heads=2)"
    assert repr(gradients) == "Parameters(28 arrays, 10,960 elements, float32)"
    assert repr(Tokenizer.bytes()) == "Tokenizer(BPE, 257 ids)"
    assert repr(Tokenizer.char(["abc"])) == "Tokenizer(WordLevel, 4 ids)"
    assert len(repr(CONFIG)) < 500


def test_a_prompt_that_is_not_in_a_list_is_explained() -> None:
    with pytest.raises(ValueError, match=r"tokens is one prompt, \[1, 2, 3\], but must be a list of prompts: \[\[1, 2, 3\]\]"):
        GPT(CONFIG).generate([1, 2, 3], max_new_tokens=1)


def test_the_code_of_the_guide_runs(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_bytes(text_file.read_bytes())
    guide = (Path(__file__).parents[2] / "docs/guide.md").read_text(encoding="utf-8")
    section = guide.partition("\n## In Python\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    small = ", ".join(f"{name}={value!r}" for name, value in {**TINY_MODEL, "sample_every": 0, "quiet": True}.items())
    code = "\n".join(blocks)
    assert code.count("steps=200") == 2
    found: dict[str, object] = {}
    exec(code.replace("steps=200", f"steps=2, {small}"), found)
    assert np.array_equal(found["run"].model.parameters.flat, found["model"].parameters.flat)  # type: ignore[attr-defined]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["my-tiny", "my-tiny-2"]
    assert (tmp_path / "curves.png").stat().st_size > 1000

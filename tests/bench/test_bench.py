"""The measurements of speed: all matrix products are counted, all operations are timed, and patches are undone."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt.bench import roofline
from minigpt.bench import step as bench
from minigpt.bench.operations import PRODUCTS, SUMS, timed
from minigpt.bench.roofline import Product, Replay, record
from minigpt.np import block, multi_head_attention, network, ops
from minigpt.np.config import GPT2, LLAMA, PRESETS
from minigpt.training.muon import Muon
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

SIZES: dict[str, Any] = {"vocab_size": 19, "context_length": 8, "d_model": 12, "n_layers": 2, "n_heads": 3}


def settings(batch_size: int, **changes: Any) -> Settings:
    """Return the settings of a tiny training run, by default with the recipe gpt2."""
    return resolve({"recipe": "gpt2", **SIZES, "batch_size": batch_size, **changes})


SHARED_HEADS: dict[str, Any] = {**LLAMA, "d_ff": 10, "n_heads": 4, "n_kv_heads": 2, "d_head": 6}


def test_matrix_products_are_recorded_with_their_layouts() -> None:
    a, b = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
    out = np.empty((3, 10), np.float32)[:, ::2]

    def multiply() -> None:
        np.matmul(a, b.T, out=out)
        np.matmul(a, np.ones(4, np.float32))
        np.matmul(a, np.ones((4, 1), np.float32))

    products = record(multiply)
    assert products == [Product(((3, 4), (4, 1)), ((4, 5), (1, 4)), ((3, 5), (10, 2)))]
    assert products[0].flops == 2 * 3 * 4 * 5


def test_the_product_of_a_matrix_with_its_transpose_is_repeated_as_one() -> None:
    """BLAS computes half of it, and NumPy recognizes it by the memory."""
    a, wide = np.ones((3, 4), np.float32), np.ones((3, 8), np.float32)[:, ::2]
    products = record(lambda: [np.matmul(a, a.T), np.matmul(a.T, a), np.matmul(wide, wide.T), np.matmul(a, np.ones_like(a).T)])
    assert [product.symmetric for product in products] == [True, True, True, False]
    assert [product.flops for product in products] == [3 * 3 * 4, 4 * 4 * 3, 3 * 3 * 4, 2 * 3 * 3 * 4]
    operands = roofline._operands(products)
    assert [np.shares_memory(left, right) for left, right, _ in operands] == [True, True, True, False]
    assert [left.strides == right.T.strides for left, right, _ in operands[:3]] == [True] * 3


@pytest.mark.parametrize("threads", [1, 2])
def test_the_products_of_a_step_are_those_of_the_model(threads: int) -> None:
    """Each weight has three products (forward, dx, dW); attention has 2 forward and 5 backward, in a single block of queries."""
    B, T, D, L, F, V = 4, 8, 12, 2, 48, 19
    weights = L * (3 * D * D + D * D + 2 * D * F) + V * D
    attention_flops = L * B * T * T * 2 * (6 * D + (D + 3))  # one backward product has one more column in each of 3 heads
    with bench.Step(settings(B), threads) as step:
        products = step.products()
        replay = Replay(products)
        assert replay() > 0
        replay.close()
    assert len(products) == threads
    assert sum(p.flops for worker in products for p in worker) == 2 * 3 * weights * B * T + attention_flops


def test_products_with_shared_key_value_heads() -> None:
    """Attention has a product for each query head. The feed-forward network has three weights, and qkv is narrower."""
    B, T, D, L, F, V = 3, 8, 12, 2, 10, 19
    queries, keys, d, H = 4 * 6, 2 * 6, 6, 4
    weights = L * (D * (queries + 2 * keys) + queries * D + 3 * D * F) + V * D
    attention_flops = L * B * H * T * T * 2 * (6 * d + (d + 1))
    with bench.Step(settings(B, **SHARED_HEADS), 1) as step:
        (products,) = step.products()
    assert sum(p.flops for p in products) == 2 * 3 * weights * B * T + attention_flops


@pytest.mark.parametrize("threads", [1, 2])
def test_the_products_of_an_update_with_muon_are_those_of_its_matrices(threads: int) -> None:
    """Each matrix has three products in each iteration, two of which are symmetric."""
    with bench.Step(settings(4), threads) as step:
        of_gradients = sum(p.flops for worker in step.products() for p in worker)
    with bench.Step(settings(4, optimizer="muon", lr=0.01), threads) as step:
        before = step.data_parallel.model.parameters.flat.copy()
        products = step.products()
        np.testing.assert_array_equal(step.data_parallel.model.parameters.flat, before)
    D, F = 12, 48
    update = sum(Muon().flops(*shape) for shape in 2 * [*4 * [(D, D)], (D, F), (F, D)])
    assert sum(p.flops for worker in products for p in worker) == of_gradients + update
    assert sum(p.symmetric for worker in products for p in worker) == 2 * 6 * 2 * Muon.iterations
    assert all(any(p.symmetric for p in worker) for worker in products)


def test_operations_are_timed_and_then_restored() -> None:
    patched: list[tuple[Any, str]] = [
        (ops, "linear"),
        (multi_head_attention, "linear"),
        (block, "norm"),
        (network, "embedding"),
        (np, "matmul"),
    ]
    before = [getattr(module, name) for module, name in patched]
    activations = block.ACTIVATIONS
    with timed() as seconds, bench.Step(settings(2), 1) as step:
        assert all(getattr(module, name) is not f for (module, name), f in zip(patched, before, strict=True))
        seconds.clear()
        total = step()
    assert [getattr(module, name) for module, name in patched] == before
    assert block.ACTIVATIONS is activations
    assert {PRODUCTS, SUMS, "linear", "gelu", "gelu_backward", "attention_backward", "embedding_backward"} <= set(seconds)
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < total  # nothing is counted twice


@pytest.mark.parametrize(
    "changes, included, excluded",
    [
        ({}, {"gelu", "layer_norm", "position_embedding"}, {"swiglu", "rms_norm", "rope"}),
        (SHARED_HEADS, {"swiglu", "rms_norm", "rope"}, {"gelu", "layer_norm", "position_embedding"}),
        ({"activation": "gelu_exact", "qk_norm": True}, {"gelu_exact", "layer_norm"}, {"gelu", "rope"}),
    ],
    ids=["GPT-2", "Llama", "exact GELU"],
)
def test_the_operations_are_those_of_the_configuration(changes: dict[str, Any], included: set[str], excluded: set[str]) -> None:
    with timed() as seconds, bench.Step(settings(2, **changes), 1):
        pass
    assert included | {f"{name}_backward" for name in included} <= set(seconds)
    assert not (excluded | {f"{name}_backward" for name in excluded}) & set(seconds)


def test_measure() -> None:
    measurement = bench.measure(settings(4), 2, seconds=0.3)
    assert measurement.tokens_per_s > 0
    assert measurement.gflop_per_s > 0
    assert measurement.roofline_share > 0
    assert 0 < measurement.update_share < 1
    assert next(iter(measurement.operations)) == PRODUCTS
    assert 0 < sum(measurement.operations.values()) < 1


def test_a_step_is_that_of_training_with_the_preset() -> None:
    assert list(bench.SIZES) == list(PRESETS)
    for name, changes in bench.SIZES.items():
        assert bench.settings_of(name) == resolve({"preset": name, **changes})
    assert bench.settings_of("small") == resolve({"preset": "small"})
    assert {bench.settings_of(name).optimizer for name in ("quick", "tiny", "small", "base")} == {"muon"}
    assert bench.settings_of("gpt2").optimizer == "adamw"


def test_the_comparison_with_pytorch_is_that_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's form, and AdamW on both sides."""
    folder = Path(__file__).parents[2] / "benchmarks"
    if not folder.exists():
        pytest.skip("needs the folder benchmarks of the repository")
    monkeypatch.syspath_prepend(str(folder))
    train_step = importlib.import_module("train_step")
    names = ("vocab_size", "context_length", "d_model", "n_layers", "n_heads", "batch_size")
    assert {size: tuple(getattr(train_step.settings_of(size), name) for name in names) for size in train_step.SIZES} == {
        "nano": (65, 64, 128, 4, 4, 12),
        "tiny": (2048, 128, 128, 4, 4, 32),
        "small": (4096, 256, 256, 4, 8, 16),
        "base": (4096, 256, 512, 6, 8, 8),
        "gpt2": (50257, 64, 768, 12, 12, 4),
    }
    for size in train_step.SIZES:
        s = train_step.settings_of(size)
        assert s.optimizer == "adamw"
        assert GPT2.items() <= vars(s).items() and s.d_ff in (0, 4 * s.d_model)


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from minigpt.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments])
        return int(end.value.code or 0), *capsys.readouterr()

    monkeypatch.setattr(bench, "SIZES", {"small": {**SIZES, "batch_size": 4}})
    code, out, _ = run("--threads", "2", "--seconds", "0.2")
    assert code == 0
    assert "tokens/s: small, 4 x 8 tokens per step" in out
    assert "GFLOP/s" in out
    assert "% of the speed of its matrix products alone" in out
    assert "% of the time for the update of the parameters (muon)" in out
    assert sum(float(line.split("%")[0]) for line in out.splitlines() if line[:7].strip().endswith("%")) == pytest.approx(
        100, abs=3
    )
    assert set(json.loads(run("small", "--json", "--seconds", "0.2")[1])) == set(bench.Measurement.__dataclass_fields__)
    assert run("huge") == (2, "", "minigpt: size is 'huge', but must be one of: small\n")
    assert run("--threads", "-1")[0] == 2

"""The measurements of speed: all matrix products are counted, all operations are timed, and patches are undone."""

from typing import Any

import numpy as np
import pytest

from minigpt import ModelConfig
from minigpt.bench import step as bench
from minigpt.bench.operations import PRODUCTS, SUMS, timed
from minigpt.bench.roofline import Product, Replay, record
from minigpt.np import block, multi_head_attention, network, ops
from minigpt.np.config import LLAMA

CONFIG = ModelConfig(vocab_size=19, context_length=8, d_model=12, n_layers=2, n_heads=3)
SIZES: dict[str, Any] = {"vocab_size": 19, "context_length": 8, "d_model": 12, "n_layers": 2, "d_ff": 10}
LLAMA_CONFIG = ModelConfig(**SIZES, **LLAMA, n_heads=4, n_kv_heads=2, d_head=6)


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


@pytest.mark.parametrize("threads", [1, 2])
def test_the_products_of_a_step_are_those_of_the_model(threads: int) -> None:
    """Each weight has three products (forward, dx, dW); attention has 2 forward and 5 backward, in a single block of queries."""
    B, T, D, L, F, V = 4, 8, 12, 2, 48, 19
    weights = L * (3 * D * D + D * D + 2 * D * F) + V * D
    attention_flops = L * B * T * T * 2 * (6 * D + (D + 3))  # one backward product has one more column in each of 3 heads
    with bench.Step(CONFIG, B, threads) as step:
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
    with bench.Step(LLAMA_CONFIG, B, 1) as step:
        (products,) = step.products()
    assert sum(p.flops for p in products) == 2 * 3 * weights * B * T + attention_flops


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
    with timed() as seconds, bench.Step(CONFIG, 2, 1) as step:
        assert all(getattr(module, name) is not f for (module, name), f in zip(patched, before, strict=True))
        seconds.clear()
        total = step()
    assert [getattr(module, name) for module, name in patched] == before
    assert block.ACTIVATIONS is activations
    assert {PRODUCTS, SUMS, "linear", "gelu", "gelu_backward", "attention_backward", "embedding_backward"} <= set(seconds)
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < total  # nothing is counted twice


@pytest.mark.parametrize(
    "config, included, excluded",
    [
        (CONFIG, {"gelu", "layer_norm", "position_embedding"}, {"swiglu", "rms_norm", "rope"}),
        (LLAMA_CONFIG, {"swiglu", "rms_norm", "rope"}, {"gelu", "layer_norm", "position_embedding"}),
        (ModelConfig(**SIZES, n_heads=2, activation="gelu_exact", qk_norm=True), {"gelu_exact", "layer_norm"}, {"gelu", "rope"}),
    ],
    ids=["GPT-2", "Llama", "exact GELU"],
)
def test_the_operations_are_those_of_the_configuration(config: ModelConfig, included: set[str], excluded: set[str]) -> None:
    with timed() as seconds, bench.Step(config, 2, 1):
        pass
    assert included | {f"{name}_backward" for name in included} <= set(seconds)
    assert not (excluded | {f"{name}_backward" for name in excluded}) & set(seconds)


def test_measure() -> None:
    measurement = bench.measure(CONFIG, 4, 2, seconds=0.3)
    assert measurement.tokens_per_s > 0
    assert measurement.gflop_per_s > 0
    assert measurement.roofline_share > 0
    assert next(iter(measurement.operations)) == PRODUCTS
    assert 0 < sum(measurement.operations.values()) < 1


def test_the_sizes_are_those_of_the_documentation() -> None:
    sizes = {name: (c.vocab_size, c.context_length, c.d_model, c.n_layers, c.n_heads, B) for name, (c, B) in bench.SIZES.items()}
    assert sizes == {
        "nano": (65, 64, 128, 4, 4, 12),
        "tiny": (2048, 128, 128, 4, 4, 32),
        "small": (4096, 256, 256, 4, 8, 16),
        "base": (4096, 256, 512, 6, 8, 8),
        "gpt2": (50257, 64, 768, 12, 12, 4),
    }


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from minigpt.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments])
        return int(end.value.code or 0), *capsys.readouterr()

    monkeypatch.setattr(bench, "SIZES", {"small": (CONFIG, 4)})
    code, out, _ = run("--threads", "2", "--seconds", "0.2")
    assert code == 0
    assert "tokens/s: small, 4 x 8 tokens per step" in out
    assert "GFLOP/s" in out
    assert "% of the speed of its matrix products alone" in out
    assert sum(float(line.split("%")[0]) for line in out.splitlines() if line[:7].strip().endswith("%")) == pytest.approx(
        100, abs=3
    )
    assert set(json.loads(run("small", "--json", "--seconds", "0.2")[1])) == set(bench.Measurement.__dataclass_fields__)
    assert run("huge") == (2, "", "minigpt: size is 'huge', but must be one of: small\n")
    assert run("--threads", "-1")[0] == 2

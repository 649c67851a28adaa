"""The measuring itself: it counts all products, misses no operation, and leaves everything as it was."""

from typing import Any

import numpy as np
import pytest

from minigpt import ModelConfig
from minigpt.bench import step as bench
from minigpt.bench.operations import PRODUCTS, SUMS, timed
from minigpt.bench.roofline import Product, Replay, record
from minigpt.np import attention, block, model, ops

CONFIG = ModelConfig(vocab_size=19, context_length=8, d_model=12, n_layers=2, n_heads=3)


def test_products_are_recorded_with_their_layouts_and_sums_are_not() -> None:
    a, b = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
    out = np.empty((3, 10), np.float32)[:, ::2]

    def work() -> None:
        np.matmul(a, b.T, out=out)
        np.matmul(a, np.ones(4, np.float32))
        np.matmul(a, np.ones((4, 1), np.float32))

    found = record(work)
    assert found == [Product(((3, 4), (4, 1)), ((4, 5), (1, 4)), ((3, 5), (10, 2)))]
    assert found[0].flops == 2 * 3 * 4 * 5


@pytest.mark.parametrize("threads", [1, 2])
def test_a_steps_products_are_those_of_the_model(threads: int) -> None:
    """Each weight meets each token three times (forward, dx, dW); attention in one block has 2 products forward, 5 backward."""
    B, T, D, L, F, V = 4, 8, 12, 2, 48, 19
    weights = L * (3 * D * D + D * D + 2 * D * F) + V * D
    attention_flops = L * B * T * T * 2 * (6 * D + (D + 3))  # one of the backward's has a column more in each of 3 heads
    with bench.Step(CONFIG, B, threads) as step:
        products = step.products()
        replay = Replay(products)
        assert replay() > 0
        replay.close()
    assert len(products) == threads
    assert sum(p.flops for each in products for p in each) == 2 * 3 * weights * B * T + attention_flops


def test_operations_are_timed_and_then_let_alone() -> None:
    places: list[tuple[Any, str]] = [
        (ops, "linear"),
        (attention, "linear"),
        (block, "norm"),
        (model, "embedding"),
        (np, "matmul"),
    ]
    before = [getattr(module, name) for module, name in places]
    activations = block.ACTIVATIONS
    with timed() as seconds, bench.Step(CONFIG, 2, 1) as step:
        assert all(getattr(module, name) is not f for (module, name), f in zip(places, before, strict=True))
        seconds.clear()
        total = step()
    assert [getattr(module, name) for module, name in places] == before
    assert block.ACTIVATIONS is activations
    assert {PRODUCTS, SUMS, "linear", "gelu", "gelu_backward", "attention_backward", "embedding_backward"} <= set(seconds)
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < total  # nothing is counted twice


def test_measure_gives_shares_of_one_step() -> None:
    found = bench.measure(CONFIG, 4, 2, seconds=0.3)
    assert found.tokens_per_s > 0
    assert found.gflop_per_s > 0
    assert found.roofline_share > 0
    assert next(iter(found.operations)) == PRODUCTS
    assert 0 < sum(found.operations.values()) < 1


def test_the_sizes_are_those_of_the_table() -> None:
    found = {name: (c.vocab_size, c.context_length, c.d_model, c.n_layers, c.n_heads, B) for name, (c, B) in bench.SIZES.items()}
    assert found == {
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
    assert "tokens/s: small, 4 x 8 tokens a step" in out
    assert "GFLOP/s" in out
    assert "% of the speed of its matrix products alone" in out
    assert sum(float(line.split("%")[0]) for line in out.splitlines() if line[:7].strip().endswith("%")) == pytest.approx(
        100, abs=3
    )
    assert set(json.loads(run("small", "--json", "--seconds", "0.2")[1])) == set(bench.Measured.__dataclass_fields__)
    assert run("huge") == (2, "", "minigpt: there is no size 'huge' to measure; there are small\n")
    assert run("--threads", "-1")[0] == 2

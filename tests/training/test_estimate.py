"""The estimates of parameters, memory, operations and time agree with real training steps, and too much memory is refused."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import TINY_MODEL

from minigpt import GPT, ModelConfig
from minigpt.bench.roofline import record
from minigpt.np import model as model_module
from minigpt.np import workspace
from minigpt.np.config import LLAMA, PRESETS, QWEN3, preset
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.parameters import shapes
from minigpt.np.workspace import Arena, Array, Mark
from minigpt.training import estimate, speed
from minigpt.training.estimate import activations, check_memory, count_parameters, flops, memory, micro_batch_of, update_flops
from minigpt.training.muon import Muon
from minigpt.training.optimizer import pieces, update_seconds
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve
from minigpt.training.settings import Settings

SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": 64, "d_model": 32, "n_layers": 3, "n_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT-2": {},
    "Llama": LLAMA,
    "Llama, shared heads": {**LLAMA, "n_kv_heads": 2, "qk_norm": True},
    "shared heads": {"n_kv_heads": 1},
    "qk_norm": {"qk_norm": True},
    "Qwen 3": QWEN3,
    "squared ReLU": {**QWEN3, "activation": "relu_squared"},
    "post-norm, untied": {"norm_placement": "post", "tied": False},
    "dropout": {"dropout": 0.1},
    "large vocabulary": {"vocab_size": 30_000},
    "long context": {"context_length": 512},
}
EACH_FAMILY = pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)


class MeasuringArena(Arena):
    """An arena that records the largest number of bytes in use, and the number at the start of the LM head."""

    peak = kept = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        array = super().empty(shape, dtype)
        self.peak = max(self.peak, self._used(self.mark()))
        return array

    def _used(self, mark: Mark) -> int:
        assert mark[0] == 0  # a single chunk
        return mark[1]


@EACH_FAMILY
@pytest.mark.parametrize("accumulates", [False, True])
def test_the_activations_are_those_of_a_step(changes: dict[str, Any], accumulates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "MIN_CHUNK", 1 << 28)
    original = model_module.lm_head_loss_and_backward

    def lm_head(*arguments: Any) -> float:
        ws = next(argument for argument in arguments if isinstance(argument, MeasuringArena))
        ws.kept = ws.mark()[1]
        return original(*arguments)

    monkeypatch.setattr(model_module, "lm_head_loss_and_backward", lm_head)
    config = ModelConfig(**SIZES | changes)
    model, ws, tokens = GPT(config), MeasuringArena(), np.zeros((3, config.context_length), np.int64)
    dropout = Dropout(config.dropout) if config.dropout else NO_DROPOUT
    model.loss_and_grads(tokens, tokens, ws=ws, out=model.parameters.zeros_like(), add=accumulates, dropout=dropout)
    kept, temporary = activations(config, 3, accumulates)
    assert 0.98 <= 4 * kept / ws.kept <= 1  # a lower bound
    assert 0.97 <= 4 * (kept + temporary) / ws.peak <= 1.03


@EACH_FAMILY
def test_parameters_and_operations_are_those_of_the_model(changes: dict[str, Any]) -> None:
    config = ModelConfig(**SIZES | changes | {"vocab_size": 50, "context_length": 100})
    assert count_parameters(config) == GPT(config).num_parameters()
    tokens = np.zeros((2, 100), np.int64)
    products = record(lambda: GPT(config).loss_and_grads(tokens, tokens))
    assert sum(product.flops for product in products) == 2 * sum(flops(config, 100))


@EACH_FAMILY
def test_operations_and_memory_of_an_update(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest matrix of Muon determines the memory. AdamW has no products, and its slices are smaller."""
    monkeypatch.setattr(workspace, "MIN_CHUNK", 1 << 28)
    monkeypatch.setattr("minigpt.np.ops.ROW_BLOCK_ELEMENTS", 100)
    config = ModelConfig(**SIZES | changes)
    data_parallel, ws = DataParallel(GPT(config), 1, 0, optimizer(Settings())), MeasuringArena()
    data_parallel._workspaces = [ws]
    products = record(lambda: data_parallel.update_shard(0, 1.0, 1, 1.0, False))
    assert sum(product.flops for product in products) == update_flops(Settings(), config)
    assert len(products) == 3 * Muon.iterations * (7 if config.activation == "swiglu" else 6) * config.n_layers
    assert 4 * estimate._update_arrays(Settings(), config) == pytest.approx(ws.peak, rel=0.01)
    adamw = Settings(optimizer="adamw")
    assert update_flops(adamw, config) == estimate._update_arrays(adamw, config) == 0


def test_the_parameters_of_the_presets() -> None:
    for name in PRESETS:
        config = preset(name, **{"vocab_size": 1000})
        assert count_parameters(config) == sum(map(math.prod, shapes(config).values()))


def test_a_model_of_a_billion_layers_is_counted_without_listing_them() -> None:
    assert count_parameters(ModelConfig(**SIZES | {"n_layers": 10**9})) > 10**13


@pytest.mark.parametrize(
    "batch_size, micro_batch, workers, expected",
    [(8, 0, 2, (4, 1)), (8, 0, 1, (4, 2)), (8, 3, 1, (3, 3)), (8, 100, 2, (4, 1)), (3, 0, 8, (1, 1))],
)
def test_the_micro_batch_is_that_of_the_workers(
    batch_size: int, micro_batch: int, workers: int, expected: tuple[int, int]
) -> None:
    settings = Settings(batch_size=batch_size, micro_batch=micro_batch, context_length=256)
    assert micro_batch_of(settings, 256, workers) == expected
    own = [
        DataParallel(GPT(ModelConfig(**SIZES)), workers, micro_batch)._micro_batches(i, batch_size, 256) for i in range(workers)
    ]
    assert (max(s.stop - s.start for slices in own for s in slices), max(map(len, own))) == expected


MEASURE = """
import os, sys
from pathlib import Path
import numpy as np
from minigpt.np.model import GPT
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.recipe import optimizer
from minigpt.training.resolve import resolve

def pss():
    pids = ["self", *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

before, threads, recipe = pss(), int(sys.argv[1]), sys.argv[2]
settings = resolve({"preset": "small", "batch_size": 8, "recipe": recipe})
config = settings.model(4096)
tokens = np.zeros((8, config.context_length), np.int64)
with DataParallel(GPT(config), threads, 0, optimizer(settings)) as workers:
    workers.loss_and_grads(tokens, tokens)
    workers.update(1e-3, 1, 1.0)
    for moment in workers.full_moments():  # as a checkpoint does
        moment.flat.sum()
    print(pss() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads, recipe", [(1, "default"), (2, "default"), (2, "gpt2")])
def test_the_memory_is_that_of_real_steps(threads: int, recipe: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(threads), recipe]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    settings = resolve({"preset": "small", "batch_size": 8, "recipe": recipe})
    needed = memory(settings, settings.model(4096), threads)
    measured = int(done.stdout) + estimate.PROCESS_BYTES
    assert needed.total == pytest.approx(measured, rel=0.2)
    assert needed.minimum < measured


GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the memory of the machine."""
    return lambda nbytes: monkeypatch.setattr(estimate, "machine_memory", lambda: nbytes)


def unexpected(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"batch_size": 10_000_000}, "batch_size (10,000,000), context_length (256)"),
        ({"batch_size": 200_000, "micro_batch": 100_000}, "micro_batch (100,000), context_length (256)"),
        ({"context_length": 10**6}, "context_length (1,000,000)"),
        ({"d_model": 10**5}, "d_model (100,000)"),
        ({"n_layers": 10**6}, "n_layers (1,000,000)"),
        ({"threads": 1000, "d_model": 1024}, "d_model (1,024)"),
    ],
)
def test_what_cannot_fit_is_refused(machine: Callable[[int], None], changes: dict[str, Any], named: str) -> None:
    machine(16 * GIB)
    settings = Settings(**changes)
    pattern = "^training [0-9,]+ parameters takes at least [0-9,.]+ GB of memory, but this machine has 17 GB: reduce [^\n]+$"
    with pytest.raises(ValueError, match=pattern) as refused:
        check_memory(settings, 2048, settings.threads or 2, unexpected)
    assert named in str(refused.value)


def test_a_large_vocabulary_is_refused(machine: Callable[[int], None]) -> None:
    machine(4 * GIB)
    with pytest.raises(ValueError, match=r"reduce .*vocab_size \(1,000,000\)"):
        check_memory(Settings(d_model=512), 1_000_000, 2, unexpected)


def test_what_fits_is_not_refused(machine: Callable[[int], None]) -> None:
    machine(16 * GIB)
    for name in PRESETS:
        settings = resolve({"preset": name})
        check_memory(settings, settings.vocab_size, 2, unexpected)
    check_memory(Settings(micro_batch=100_000), 2048, 2, unexpected)  # there are only 8 sequences
    machine(0)  # unknown
    check_memory(Settings(n_layers=10**6), 2048, 2, unexpected)


def test_what_may_not_fit_is_said(machine: Callable[[int], None]) -> None:
    settings, said = Settings(), []
    needed = memory(settings, settings.model(2048), 2)
    machine((needed.minimum + needed.total) // 2)
    check_memory(settings, 2048, 2, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"Training may need {estimate.gigabytes(needed.total)} of memory, but this machine has ")
    machine(needed.total)
    check_memory(settings, 2048, 2, unexpected)


def test_training_refuses_before_it_creates_the_folder(
    train_tiny: Callable[..., str], tmp_path: Path, machine: Callable[[int], None]
) -> None:
    machine(1000)
    with pytest.raises(ValueError, match="takes at least"):
        train_tiny(tmp_path / "runs" / "new", **TINY_MODEL)
    assert not (tmp_path / "runs").exists()


def test_the_ranks_divide_the_moments_and_the_batch() -> None:
    settings = Settings(batch_size=64, micro_batch=64)
    alone, one_of_four = (memory(settings, settings.model(2048), 1, ranks) for ranks in (1, 4))
    assert one_of_four.vectors == pytest.approx(alone.vectors * (2 + 2 / 4) / 4, rel=1e-3)
    assert one_of_four.cached == pytest.approx(alone.cached / 4, rel=0.01)


# ------------------------------------------------------------------ time


def test_a_small_model_is_measured_entirely_and_a_large_one_in_part() -> None:
    settings = resolve({"preset": "nano", "tokenizer": "char"})
    assert speed._part(settings, settings.model(65), 2, 1e10) == (settings.model(65), 6)
    settings = resolve({"preset": "gpt2"})
    part, sequences = speed._part(settings, settings.model(50257), 2, 1e10)
    assert (part.n_layers, part.d_model, part.vocab_size, sequences) == (1, 768, 4188, 1)
    assert speed._work(part, sequences) <= 1e10


def test_the_time_follows_from_the_speed() -> None:
    settings = Settings(batch_size=6, context_length=64, eval_every=3, eval_tokens=1000)
    config = settings.model(100)
    forward, backward = flops(config, 64)
    measured = speed.Speed(flops_per_s=1e9, update_factor=1e4)
    work = pieces(optimizer(settings), config, shapes(config))
    update = {workers: 1e4 * update_seconds(work, workers) for workers in (1, 2, 4, 6, 9)}
    times = [speed.step_seconds(settings, config, measured, threads) for threads in (1, 2, 4, 6, 9)]
    sequences = [(t - u) / (forward + backward) * 1e9 for t, u in zip(times, update.values(), strict=True)]
    assert sequences == pytest.approx([6, 3, 2, 1, 1])
    assert speed.step_seconds(settings, config, measured, 2, 3) == times[3]
    assert update[1] / 2 <= update[2] < update[1]
    total = speed.training_seconds(settings, config, 0.384, steps=10, valid_tokens=500)
    validation = 500 * 0.001 * forward / (forward + backward)
    assert total == pytest.approx(10 * 0.384 + 4 * validation)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_speed_is_measured(threads: int) -> None:
    """A wrong amount of work would make the speed depend on the number of tokens and workers beyond any noise."""
    settings = Settings(**TINY_MODEL, batch_size=4)
    measured = speed.measure_speed(settings, settings.model(257), threads, seconds=0.0)
    assert 1e3 < measured.flops_per_s < 1e13
    assert 1e-4 < measured.update_factor < 1e4

"""What a training run needs: parameters, memory and floating-point operations. `minigpt.training.speed` estimates the time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from minigpt.np.attention import BLOCK_ELEMENTS, QUERY_BLOCK, ROW_PADDING
from minigpt.np.config import ModelConfig
from minigpt.np.lm_head import row_chunks
from minigpt.np.parameters import shapes
from minigpt.training.machine import machine_memory
from minigpt.training.muon import Muon
from minigpt.training.optimizer import Piece, pieces
from minigpt.training.parallel.data_parallel import TOKENS_PER_MICRO_BATCH
from minigpt.training.parallel.workers import use_processes
from minigpt.training.recipe import optimizer
from minigpt.training.settings import Settings

FLOAT, INTEGER = 4, 8
"The sizes in bytes of activations and parameters, and of token ids."
PROCESS_BYTES, WORKER_BYTES = 60 << 20, 6 << 20
"Python, its libraries and small arrays, in the main process and in each further process. Measured on Linux."


@dataclass(frozen=True)
class Memory:
    """The memory of a training run in bytes, in all workers together.

    On Linux, the peak of `minigpt train` (the sum over its processes, shared pages counted once) was 0.82 to 1.14 times the total
    for the presets nano, tiny, quick, small, base and llama-tiny with the default recipe, with one and two workers.
    """

    vectors: int
    "The parameters, their gradients and the two moments. The second one of Muon is only written to checkpoints, as zeros."
    partial_gradients: int
    "The gradients of the workers other than the first, before they are summed."
    cached: int
    "The activations that the forward pass keeps for the backward pass, of one micro-batch in each worker."
    temporary: int
    "The largest intermediate arrays of the backward pass, of the loss (a chunk of logits), or of the update, in each worker."
    batch: int
    "The token ids of a batch, of which each process has a copy."
    processes: int
    "Python and its libraries."

    @property
    def minimum(self) -> int:
        """A lower bound: only arrays that are all in memory at the same time."""
        return self.vectors + self.partial_gradients + self.cached + self.batch

    @property
    def total(self) -> int:
        """The estimate of the peak."""
        return self.minimum + self.temporary + self.processes


def count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of a model, without allocating or listing them.

    >>> count_parameters(ModelConfig(vocab_size=10, context_length=8, d_model=16, n_layers=2, n_heads=4))
    6880
    """
    one, two = (sum(map(math.prod, shapes(replace(config, n_layers=n)).values())) for n in (1, 2))
    return one + (config.n_layers - 1) * (two - one)


def micro_batch_of(settings: Settings, length: int, workers: int) -> tuple[int, int]:
    """Return the number of sequences of the largest micro-batch of a worker, and the number of its micro-batches in a step."""
    sequences = -(-settings.batch_size // workers)
    size = min(sequences, settings.micro_batch or max(1, TOKENS_PER_MICRO_BATCH // length))
    return size, -(-sequences // size)


def memory(settings: Settings, config: ModelConfig, threads: int, ranks: int = 1) -> Memory:
    """Return the memory that training needs, on each rank of an MPI job."""
    parameters, active = count_parameters(config), min(threads, max(1, settings.batch_size // ranks))
    sequences, micro_batches = micro_batch_of(settings, config.context_length, threads * ranks)
    cached, temporary = activations(config, sequences, micro_batches > 1)
    temporary = max(temporary, _update_arrays(settings, config) - cached)
    processes = threads if use_processes(threads) else 1
    moments = 2 * -(-parameters // ranks)
    return Memory(
        vectors=FLOAT * (2 * parameters + moments),
        partial_gradients=FLOAT * parameters * (threads - 1),
        cached=FLOAT * cached * active,
        temporary=FLOAT * temporary * active,
        batch=2 * INTEGER * settings.batch_size * config.context_length * processes,
        processes=PROCESS_BYTES + WORKER_BYTES * (processes - 1),
    )


def activations(config: ModelConfig, sequences: int, accumulates: bool) -> tuple[int, int]:
    """Return the number of floats that a micro-batch keeps for its backward pass, and of those that it needs temporarily.

    `accumulates` is whether the gradients of several micro-batches are added up. Both numbers follow the arrays that the
    modules of `minigpt.np` allocate in their workspace.
    """
    c, N, D = config, sequences * config.context_length, config.d_model
    attention, attention_backward = _attention(c, sequences)
    gated = c.activation == "swiglu"
    norm = (2 if c.norm == "layer" else 1) * N * D
    mask = N * D if c.dropout else 0
    hidden = (3 if gated else 2) * N * c.d_ff
    block = 2 * (norm + mask) + attention + N * D + hidden + N * D
    ends = 2 * N * D + mask + (norm if c.norm_placement == "pre" else 0)  # embeddings, the gradient dx, final norm
    block_backward = attention_backward + N * c.d_ff + (3 if gated else 2) * N * D + 2 * mask + 2 * N * D
    part = (count_parameters(replace(c, n_layers=2)) - count_parameters(replace(c, n_layers=1))) if accumulates else 0
    return c.n_layers * block + ends, max(_loss(c, N, accumulates), block_backward + part)


def _attention(c: ModelConfig, sequences: int) -> tuple[int, int]:
    """Return the floats that multi-head attention keeps in one layer, and those of its backward pass."""
    H, K, d, T = c.n_heads, c.n_kv_heads, c.d_head, c.context_length
    N, padded = sequences * T, sequences * (T + ROW_PADDING)
    transformed = (H + K) * d * N
    qk_norm = transformed * (3 if c.norm == "layer" else 2) if c.qk_norm else 0
    kept = (H + 2 * K) * d * N + qk_norm + (transformed if c.positions == "rope" else 0) + H * d * N + H * N + K * d * padded
    scores = min(H * sequences, max(1, BLOCK_ELEMENTS // (QUERY_BLOCK * T))) * min(QUERY_BLOCK, T) * T  # of a block of queries
    backward = H * d * N + (H + 2 * K) * d * N + H * (d + 1) * N + K * (d + 1) * padded
    backward += 2 * H * d * N if H != K else 0  # the gradients of shared heads, before they are summed
    transforms = c.qk_norm + (c.positions == "rope")
    return kept, backward + (transformed if transforms else 0) + max(2 * scores, transforms * transformed)


def _matrices(settings: Settings, config: ModelConfig) -> list[Piece]:
    """Return the matrices of a block that Muon updates. The pieces of AdamW in an enormous model are too many to be listed."""
    rules, named = optimizer(settings), shapes(replace(config, n_layers=1))
    return pieces(rules, config, {name: shape for name, shape in named.items() if isinstance(rules.group(name).rule, Muon)})


def _update_arrays(settings: Settings, config: ModelConfig) -> int:
    """Return the number of floats that an update needs temporarily for the largest matrix."""
    work = _matrices(settings, config)
    return max((4 * math.prod(piece.view_shape) + 2 * min(piece.view_shape) ** 2 for piece in work), default=0)


def update_flops(settings: Settings, config: ModelConfig) -> int:
    """Return the floating-point operations of the matrix products of an update."""
    return config.n_layers * sum(piece.flops for piece in _matrices(settings, config))


def _loss(c: ModelConfig, rows: int, accumulates: bool) -> int:
    """Return the floats of a chunk of the LM head: logits, the gradient of its input, and that of the weight if it is added."""
    chunks = row_chunks(rows, c.vocab_size)
    chunk = next(chunks).stop
    several = accumulates or next(chunks, None) is not None
    return chunk * (c.vocab_size + c.d_model) + (c.vocab_size * c.d_model if several else 0)


def flops(config: ModelConfig, length: int) -> tuple[int, int]:
    """Return the floating-point operations of the matrix products of one sequence: of the forward and of the backward pass.

    The forward pass takes 2 for each weight of a matrix and each token, and those of attention, which grow with the square of
    the length. The backward pass takes twice as many, and computes the scores of attention again.

    >>> forward, backward = flops(ModelConfig(vocab_size=4096, context_length=256, d_model=256, n_layers=4, n_heads=8), 256)
    >>> round(forward / 256 / 1e6, 2), round(backward / forward, 2)
    (9.04, 2.04)
    """
    c, d = config, config.d_head
    heads = (c.n_heads + 2 * c.n_kv_heads) * d + c.n_heads * d
    weights = c.n_layers * c.d_model * (heads + (3 if c.activation == "swiglu" else 2) * c.d_ff) + c.vocab_size * c.d_model
    stops = [min(start + QUERY_BLOCK, length) for start in range(0, length, QUERY_BLOCK)]
    scores = c.n_layers * c.n_heads * sum((stop - start) * stop for start, stop in zip([0, *stops], stops, strict=False))
    return 2 * (length * weights + scores * 2 * d), 2 * (2 * length * weights + scores * (5 * d + 1))


def check_memory(settings: Settings, vocab_size: int, threads: int, say: Callable[[str], None], ranks: int = 1) -> None:
    """Raise `ValueError` if the machine cannot have enough memory, before anything is allocated or deleted.

    Warn with a line to `say` if the estimate, which is less certain, exceeds the memory of the machine.
    """
    config = settings.model(vocab_size)
    needed, available = memory(settings, config, threads, ranks), machine_memory()
    if not available or needed.total <= available:
        return
    sizes = _reducible(settings, config, needed)
    if needed.minimum > available:
        raise ValueError(
            f"training {count_parameters(config):,} parameters takes at least {gigabytes(needed.minimum)} of memory, but this "
            f"machine has {gigabytes(available)}: {sizes}"
        )
    say(f"Training may need {gigabytes(needed.total)} of memory, but this machine has {gigabytes(available)}: {sizes}.")


def _reducible(settings: Settings, config: ModelConfig, needed: Memory) -> str:
    """Name the settings that reduce the largest part of the memory, with their values."""
    parts = {
        ("d_model", "n_layers", "d_ff", "vocab_size"): needed.vectors + needed.partial_gradients,
        ("micro_batch", "context_length", "d_model", "n_layers", "d_ff", "vocab_size"): needed.cached + needed.temporary,
        ("batch_size", "context_length"): needed.batch,
    }
    names = max(parts, key=parts.__getitem__)
    values = {name: getattr(config if hasattr(config, name) else settings, name) for name in names}
    return "reduce " + ", ".join(f"{name} ({value:,})" for name, value in values.items() if value)


def gigabytes(nbytes: int) -> str:
    """Return a size in GB, or in MB below 1 GB.

    >>> gigabytes(1_234_567_890), gigabytes(345_678_901), gigabytes(25_100_000_000)
    ('1.2 GB', '346 MB', '25 GB')
    """
    if nbytes < 1e9:
        return f"{nbytes / 1e6:,.0f} MB"
    return f"{nbytes / 1e9:,.1f} GB" if nbytes < 1e10 else f"{nbytes / 1e9:,.0f} GB"

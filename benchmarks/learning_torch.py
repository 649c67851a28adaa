"""The sides of benchmarks/learning.py that train with PyTorch: a GPT as in nanoGPT, and minigpt's default recipe.

Both are what a user of PyTorch would write: modules, fused attention, fused AdamW, and for the default recipe torch.optim.Muon.

A third side adds three extras to the default recipe, which minigpt leaves out (docs/learning.md): a bigram embedding, value
embeddings, and a shift. Each of them starts at zero.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.data.batches import batch, windows
from minigpt.data.token_files import PreparedData
from minigpt.training.evaluate import BATCH_SIZE
from minigpt.training.settings import Settings

BIGRAMS = 2  # rows of the bigram embedding for each token of the vocabulary
VALUE_EMBEDDINGS = 2  # number of blocks, the last ones, with a value embedding
HASH = 36_313  # an odd multiplier, which spreads the pairs over the rows


def previous(x: Tensor) -> Tensor:
    """Return, at each position, what x (B, T, ...) has at the position before, and zeros at the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def norm_of(s: Settings, width: int) -> nn.Module:
    """Return the layer of the setting `norm`."""
    return nn.LayerNorm(width, eps=s.norm_epsilon) if s.norm == "layer" else nn.RMSNorm(width, eps=s.norm_epsilon)


class Attention(nn.Module):
    """Causal attention with separate projections, so that Muon orthogonalizes each of them."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        D, self.heads, self.d = s.d_model, s.n_heads, s.d_model // s.n_heads
        self.q, self.k, self.v, self.out = (nn.Linear(D, D, bias=s.attention_bias) for _ in range(4))
        self.q_norm, self.k_norm = (norm_of(s, self.d) if s.qk_norm else nn.Identity() for _ in range(2))
        self.rope = s.positions == "rope"
        angles = torch.arange(s.context_length)[:, None] * s.rope_theta ** (-torch.arange(0, self.d, 2) / self.d)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x: Tensor) -> Tensor:
        if not self.rope:
            return x
        T, half = x.shape[-2], self.d // 2
        a, b, cos, sin = x[..., :half], x[..., half:], self.cos[:T], self.sin[:T]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        self.mix: nn.Parameter | None = None
        "With the shift, the share of each channel that is taken from the token before, (D,)."

    def forward(self, x: Tensor, value_embedding: Tensor | None) -> Tensor:
        B, T, D = x.shape
        if self.mix is not None:
            x = x + self.mix * (previous(x) - x)
        q, k, v = (linear(x).view(B, T, self.heads, self.d).transpose(1, 2) for linear in (self.q, self.k, self.v))
        q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        if value_embedding is not None:
            v = v + value_embedding.view(v.transpose(1, 2).shape).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """GELU as in GPT-2, or SwiGLU."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        D, hidden, bias = s.d_model, s.model(1).d_ff, s.feed_forward_bias
        self.gate = nn.Linear(D, hidden, bias=bias) if s.activation == "swiglu" else None
        self.up, self.down = nn.Linear(D, hidden, bias=bias), nn.Linear(hidden, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = norm_of(s, s.d_model), norm_of(s, s.d_model)
        self.attention, self.feed_forward = Attention(s), FeedForward(s)

    def forward(self, x: Tensor, value_embedding: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), value_embedding)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Model(nn.Module):
    """A language model in the form that the settings describe, with or without the extras."""

    def __init__(self, s: Settings, vocab_size: int, extras: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, s.d_model)
        self.positions = nn.Embedding(s.context_length, s.d_model) if s.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.n_layers))
        self.norm, self.head = norm_of(s, s.d_model), nn.Linear(s.d_model, vocab_size, bias=False)
        if s.tied:
            self.head.weight = self.embedding.weight
        for name, p in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(p, 0, 0.0 if s.zero_init else 0.02 / (2 * s.n_layers) ** 0.5)
            elif p.dim() == 2:
                nn.init.normal_(p, 0, s.embedding_std if name.startswith(("embedding", "positions")) else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        self.bigram_embedding = nn.Embedding(BIGRAMS * vocab_size, s.d_model) if extras else None
        tables = VALUE_EMBEDDINGS if extras else 0
        self.value_embeddings = nn.ModuleList(nn.Embedding(vocab_size, s.d_model) for _ in range(tables))
        if self.bigram_embedding is not None:
            for table in (self.bigram_embedding, *self.value_embeddings):
                nn.init.zeros_(table.weight)
            for block in self.blocks:
                block.attention.mix = nn.Parameter(torch.zeros(s.d_model))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.bigram_embedding is not None:
            x = x + self.bigram_embedding((previous(tokens) * HASH + tokens) % self.bigram_embedding.num_embeddings)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        values = [table(tokens) for table in self.value_embeddings]
        for block, value in zip(self.blocks, [*[None] * (len(self.blocks) - len(values)), *values], strict=True):
            x = block(x, value)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def optimizers(model: Model, s: Settings) -> list[torch.optim.Optimizer]:
    """Return the optimizers of the settings: AdamW for all parameters, or Muon for the matrices of the blocks."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    matrices = []
    for name, p in model.named_parameters():
        if p.dim() == 2 and name.startswith("blocks."):
            rate = s.lr
            if s.optimizer == "muon":
                matrices.append(p)
                continue
        elif p.dim() < 2:
            rate = s.vector_lr or s.lr
        else:
            rate = (s.head_lr if name.startswith("head") else s.embedding_lr) or s.lr
        groups.setdefault((rate, s.weight_decay if p.dim() == 2 else 0.0), []).append(p)
    adamw = [{"params": ps, "lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(adamw, betas=(s.beta1, s.beta2), fused=True)]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=s.lr, weight_decay=s.muon_weight_decay, momentum=s.momentum, nesterov=True)
        found.append(muon)
    for opt in found:
        for group in opt.param_groups:
            group["peak"] = group["lr"]
    return found


def torch_side(
    s: Settings, data: PreparedData, rate: Callable[[Settings, int], float], extras: bool = False
) -> tuple[Callable[[int, int], float], Callable[[], tuple[float, float]]]:
    """Return the functions that train and evaluate a model in PyTorch, as in `learning.minigpt_side`."""
    torch.set_num_threads(s.threads)
    torch.manual_seed(s.seed)
    model = Model(s, data.tokenizer.vocab_size, extras)
    opts = optimizers(model, s)

    def train(first: int, last: int) -> float:
        loss = torch.zeros(())
        for step in range(first, last + 1):
            tokens, targets = map(torch.from_numpy, batch(data.train, s.seed, step, s.batch_size, s.context_length))
            loss = model(tokens, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = rate(s, step) * group["peak"]
                opt.step()
                opt.zero_grad(set_to_none=True)
        return loss.item()

    @torch.no_grad()
    def score() -> tuple[float, float]:
        total = count = 0.0
        for tokens, targets in windows(data.valid, s.context_length, BATCH_SIZE):
            total += model(torch.from_numpy(tokens), torch.from_numpy(targets)).item() * targets.size
            count += targets.size
        loss = total / count
        return loss, loss / math.log(2) * data.valid.n_tokens / data.valid.bytes

    return train, score

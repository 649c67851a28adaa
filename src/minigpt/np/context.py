"""The configuration and state that the layers need in addition to their input and parameters."""

from dataclasses import dataclass, replace

from minigpt.np.config import ModelConfig
from minigpt.np.kv_cache import KVCache
from minigpt.np.ops import NO_DROPOUT, Dropout
from minigpt.np.positions import RopeAngles
from minigpt.np.watch import NO_WATCH, Watch
from minigpt.np.workspace import DEFAULT_WORKSPACE, Workspace


@dataclass(frozen=True)
class Context:
    """The configuration and the state of one forward or backward pass, which the network passes to every layer.

    >>> ctx = Context(ModelConfig(vocab_size=10, d_model=8, n_heads=2))
    >>> ctx.causal, ctx.for_layer(3).layer
    (True, 3)
    """

    config: ModelConfig
    ws: Workspace = DEFAULT_WORKSPACE
    "Allocates the intermediate arrays."
    dropout: Dropout = NO_DROPOUT
    causal: bool = True
    "Mask the scores of later tokens in attention."
    rope: RopeAngles | None = None
    "Rotation angles of rope at the positions of the tokens; None with learned positions."
    kv_cache: KVCache | None = None
    "Keys and values of earlier tokens, in generation."
    layer: int = 0
    "Index of the current block."
    needs_grad: bool = True
    "A backward pass will follow. If False, caches are discarded block by block."
    watch: Watch = NO_WATCH
    "Observes the intermediate arrays."

    def for_layer(self, layer: int) -> "Context":
        """Return the same context for another block."""
        return replace(self, layer=layer, watch=self.watch.with_prefix(f"blocks.{layer}."))

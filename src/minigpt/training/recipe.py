"""The optimizer of a training run and its learning rate, from its settings."""

from minigpt.training.adamw import AdamW
from minigpt.training.muon import Muon
from minigpt.training.optimizer import Group, Optimizer
from minigpt.training.schedule import learning_rate
from minigpt.training.settings import Settings


def rate(settings: Settings, step: int) -> float:
    """Return the learning rate of a step as a fraction of the peak, which the groups of parameters have in common.

    >>> rate(Settings(steps=100, warmup=10), 5)
    0.5
    """
    s = settings
    return learning_rate(step, s.steps, 1.0, s.warmup_steps, s.min_lr_ratio, s.schedule, s.decay)


def optimizer(settings: Settings) -> Optimizer:
    """Return the update rule and the learning rate of each group of parameters.

    >>> groups = optimizer(Settings()).groups
    >>> [(name, type(group.rule).__name__, group.lr) for name, group in groups.items()]
    [('matrices', 'Muon', 0.01), ('embedding', 'AdamW', 0.03), ('head', 'AdamW', 0.01), ('vectors', 'AdamW', 0.02)]
    """
    s = settings
    adamw = AdamW(s.beta1, s.beta2, weight_decay=s.weight_decay)
    vectors = AdamW(s.beta1, s.beta2, weight_decay=0.0)
    muon = Muon(s.momentum, s.muon_iterations, s.muon_coefficients, s.muon_scale, s.muon_weight_decay)
    return Optimizer(
        {
            "matrices": Group(muon if s.optimizer == "muon" else adamw, s.lr),
            "embedding": Group(adamw, s.embedding_lr or s.lr),
            "head": Group(adamw, s.head_lr or s.lr),
            "vectors": Group(vectors, s.vector_lr or s.lr),
        }
    )

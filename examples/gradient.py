"""Compute one gradient twice: by the backward pass, which is written by hand, and by finite differences.

    python examples/gradient.py

The derivative of the loss with respect to a weight w is the limit of (loss(w + h) - loss(w - h)) / (2 h) for small h. This needs
two forward passes for each weight. The backward pass gives the derivatives with respect to all weights at once.
"""

import argparse

import numpy as np

from minigpt import GPT, ModelConfig


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the gradient of the backward pass with finite differences.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the tokens and the choice of weights")
    parser.add_argument("--h", type=float, default=1e-5, help="step of the finite differences (default: 1e-5)")
    args = parser.parse_args()

    config = ModelConfig(vocab_size=20, context_length=12, d_model=16, n_layers=2, n_heads=4)
    model = GPT(config, seed=args.seed, dtype=np.float64)
    rng = np.random.default_rng(args.seed)
    tokens, targets = rng.integers(0, config.vocab_size, (2, 3, 12))  # 3 sequences of 12 tokens, and the next token of each

    loss, gradients = model.loss_and_grads(tokens, targets)
    print(f"{model}\nThe loss is {loss:.6f}; a model that knows nothing has log(20) = {np.log(20):.6f}.\n")
    print(f"{'one weight of':36} {'backward pass':>16} {'difference':>16} {'relative error':>16}")
    for name, weight in model.parameters.items():
        index = tuple(int(rng.integers(size)) for size in weight.shape)
        derivative, quotient = gradients[name][index], difference_quotient(model, weight, index, tokens, targets, args.h)
        error = abs(derivative - quotient) / max(abs(derivative), abs(quotient), 1e-6)
        print(f"{name:36} {derivative:16.9f} {quotient:16.9f} {error:16.1e}")


def difference_quotient(
    model: GPT, weight: np.ndarray, index: tuple[int, ...], tokens: np.ndarray, targets: np.ndarray, h: float
) -> float:
    """Return the central difference quotient of the loss with respect to one element of a weight of the model."""
    value = weight[index]
    weight[index] = value + h  # the arrays of `model.parameters` are the weights themselves
    above = model.loss(tokens, targets)
    weight[index] = value - h
    below = model.loss(tokens, targets)
    weight[index] = value
    return (above - below) / (2 * h)


if __name__ == "__main__":
    main()

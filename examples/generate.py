"""Load a trained model and generate text with it.

    python examples/generate.py                       # the run of `minigpt train` or examples/train.py
    python examples/generate.py RUN --prompt "One day"
    python examples/generate.py openai-community/gpt2 --prompt "One day"      # downloads GPT-2

The model is the name or the path of a run, a Hugging Face directory, or a name on the Hugging Face hub.
"""

import argparse

import numpy as np

import minigpt
from minigpt.generate.text import stream_text


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate text with a trained model.")
    parser.add_argument("model", nargs="?", default="storybook-quick", help="run or hub name (default: storybook-quick)")
    parser.add_argument("--prompt", default="Once upon a time", help="beginning of the text (default: Once upon a time)")
    parser.add_argument("--tokens", type=int, default=200, help="maximum number of new tokens (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token (default: 0.8)")
    args = parser.parse_args()

    model, tokenizer = minigpt.load(args.model)
    if tokenizer is None:
        raise SystemExit(f"{args.model} has no tokenizer")
    print(model, tokenizer, sep="\n")

    # A model maps a sequence of token ids to one score (logit) for each possible next token, at every position.
    ids = tokenizer.encode(args.prompt)
    context = [tokenizer.begin_of_text, *ids][-model.config.context_length :]
    logits = model.logits([context])[0, -1]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    print(f"\nThe prompt {args.prompt!r} has the token ids {ids}. The likeliest next tokens are:")
    for token in np.argsort(-probabilities)[:5]:
        print(f"  {probabilities[token]:6.1%}  {tokenizer.decode([token])!r}")

    # To generate text, one token after the other is drawn and appended. The text is printed while it is generated.
    print(f"\n{args.prompt}", end="", flush=True)
    for chunk in stream_text(model, tokenizer, args.prompt, args.tokens, temperature=args.temperature):
        print(chunk, end="", flush=True)
    print()


if __name__ == "__main__":
    main()

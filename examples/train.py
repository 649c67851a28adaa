"""Train a model on a text, plot its curves, and let it write.

    python examples/train.py                          # built-in stories, about a minute on two cores
    python examples/train.py my.txt --steps 1000      # your own text

The run, with its report, is in the folder runs/ at the end. `python examples/generate.py` continues from there.
"""

import argparse

import minigpt


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model on a text.")
    parser.add_argument("data", nargs="?", default="storybook", help="file or folder of text (default: built-in stories)")
    parser.add_argument("--preset", default="quick", help="sizes of the model: quick, nano, tiny, small, ... (default: quick)")
    parser.add_argument("--steps", type=int, default=400, help="number of training steps (default: 400)")
    parser.add_argument("--prompt", default="", help="beginning of the text that the model continues")
    args = parser.parse_args()

    run = minigpt.train(args.data, preset=args.preset, steps=args.steps, prompt=args.prompt, samples=0)

    print(run)
    print("\nA text after the last step:\n")
    print(run.sample(args.prompt, temperature=0.6))
    run.plot().savefig(run.path / "curves.png")
    print(f"\nThe curves are in {run.path / 'curves.png'}, the report is in {run.path / 'report.html'}.")


if __name__ == "__main__":
    main()

"""Time the preparation of data: a batch, the encoding of a text file, and the start of the program.

usage: python benchmarks/data.py [--text FILE]     (default: stories from the storybook)
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minigpt.bench.step import Step, settings_of
from minigpt.data.batches import batch
from minigpt.data.corpus import documents
from minigpt.data.splits import open_split
from minigpt.data.storybook import stories
from minigpt.data.token_files import write_split
from minigpt.data.tokenizer import Tokenizer
from minigpt.training.machine import available_cores

STORIES = 20_000


def median_seconds(function: Callable[[], object], runs: int = 1) -> float:
    """Return the median time of several calls."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def process_seconds(*arguments: str, **env: str) -> float:
    """Return the median time of a Python process from start to end, of eleven runs."""
    command = [sys.executable, *arguments]
    return median_seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=os.environ | env), 11)


def time_encoding(text: Path) -> None:
    """Time the encoding of a file, relative to the `tokenizers` library with the whole text in memory."""
    tokenizer = Tokenizer.train(documents([str(text)]), vocab_size=2048)
    in_memory = list(documents([str(text)]))

    def encode_file() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_split(Path(folder) / "text.bin", documents([str(text)]), tokenizer)

    mebibytes = text.stat().st_size / 2**20
    ratios = [median_seconds(lambda: tokenizer.encode_batch(in_memory)) / median_seconds(encode_file) for _ in range(5)]
    cores = os.environ.get("RAYON_NUM_THREADS", str(available_cores()))
    print(f"encoding on {cores} cores: {mebibytes / median_seconds(encode_file, 3):.1f} MiB/s from file to token file, ", end="")
    print(f"{statistics.median(ratios):.2f} of the speed of the tokenizers library with the text in memory", flush=True)


def time_batches(text: Path) -> None:
    """Time a batch of each size, relative to its training step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.bin"
        tokenizer = Tokenizer.bytes()
        write_split(path, documents([str(text)]), tokenizer)
        split = open_split(path, tokenizer)
        for name in ("nano", "tiny", "small", "base"):
            s, steps = settings_of(name), iter(range(10**6))
            batch_time = median_seconds(lambda: batch(split, 0, next(steps), s.batch_size, s.context_length), 100)  # noqa: B023
            with Step(s, available_cores()) as step:
                step_time = statistics.median(step() for _ in range(5))
            print(f"a batch of {name}: {batch_time * 1e6:.0f} microseconds, {batch_time / step_time:.2%} of a step", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--encode-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text: Path = options.text or Path(folder) / "stories.txt"
        if not options.text:
            text.write_text("\n<|endoftext|>\n".join(story.text for story in stories(STORIES)), encoding="utf-8")
        time_encoding(text)
        if options.encode_only:
            return
        one_core = os.environ | {"RAYON_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, "--text", str(text), "--encode-only"], check=True, env=one_core)
        time_batches(text)
    python = process_seconds("-c", "pass")
    print(f"import minigpt: {process_seconds('-c', 'import minigpt') - python:.3f} s, after {python:.3f} s for Python itself")
    print(f"minigpt --help: {process_seconds('-m', 'minigpt', '--help'):.3f} s in total")


if __name__ == "__main__":
    main()

"""What data costs: a batch beside its training step, a text file beside its bare encoder, and the start of a program.

usage: python benchmarks/data.py [--text FILE]     (without a file: stories from the storybook)
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from minigpt.bench.step import SIZES, Step
from minigpt.data.batches import batch
from minigpt.data.corpus import documents
from minigpt.data.storybook import stories
from minigpt.data.token_files import open_split, write_split
from minigpt.data.tokenizer import Tokenizer
from minigpt.train.machine import available_cores

STORIES = 20_000


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """Median of some runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def in_a_new_process(*arguments: str, **env: str) -> float:
    """Seconds of a whole program, median of eleven."""
    command = [sys.executable, *arguments]
    return seconds_of(lambda: subprocess.run(command, check=True, capture_output=True, env=os.environ | env), 11)


def encode(text: Path) -> None:
    """Time our streaming encoder beside the bare library, which has all of the text in memory."""
    tokenizer = Tokenizer.train(documents([str(text)]), vocab_size=2048)
    whole = list(documents([str(text)]))

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_split(Path(folder) / "text.bin", documents([str(text)]), tokenizer)

    mebibytes = text.stat().st_size / 2**20
    ratios = [seconds_of(lambda: tokenizer.encode_batch(whole)) / seconds_of(ours) for _ in range(5)]
    cores = os.environ.get("RAYON_NUM_THREADS", str(available_cores()))
    print(f"encoding on {cores} cores: {mebibytes / seconds_of(ours, 3):.1f} MiB/s from file to token file, ", end="")
    print(f"{statistics.median(ratios):.2f} of the speed of the bare encoder on the text in memory", flush=True)


def batches(text: Path) -> None:
    """Time the batches of each size beside its training step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.bin"
        tokenizer = Tokenizer.bytes()
        write_split(path, documents([str(text)]), tokenizer)
        tokens = open_split(path, tokenizer).tokens
        for name, (config, batch_size) in list(SIZES.items())[:4]:
            numbers: Iterator[int] = iter(range(10**6))
            one = seconds_of(lambda: batch(tokens, 0, next(numbers), batch_size, config.context_length), 100)  # noqa: B023
            with Step(config, batch_size, available_cores()) as step:
                whole = statistics.median(step() for _ in range(5))
            print(f"a batch of {name}: {one * 1e6:.0f} microseconds, {one / whole:.2%} of a step", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--encode-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text: Path = options.text or Path(folder) / "stories.txt"
        if not options.text:
            text.write_text("\n<|endoftext|>\n".join(story.text for story in stories(STORIES)), encoding="utf-8")
        encode(text)
        if options.encode_only:
            return
        one_core = os.environ | {"RAYON_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, "--text", str(text), "--encode-only"], check=True, env=one_core)
        batches(text)
    bare = in_a_new_process("-c", "pass")
    print(f"import minigpt: {in_a_new_process('-c', 'import minigpt') - bare:.3f} s, beside {bare:.3f} s of Python itself")
    print(f"minigpt --help: {in_a_new_process('-m', 'minigpt', '--help'):.3f} s, all of it")


if __name__ == "__main__":
    main()

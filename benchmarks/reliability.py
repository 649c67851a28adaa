"""Measure what reliability costs: the time of saving a checkpoint, and the peak memory of training on a large corpus.

python benchmarks/reliability.py saving
python benchmarks/reliability.py memory --stories train.txt     # a text with <|endoftext|> lines; it is repeated to 200 MB
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minigpt.bench.step import SIZES, Step, settings_of
from minigpt.runs.checkpoint import TrainingState, prune_checkpoints, save
from minigpt.runs.folder import RunFolder
from minigpt.training.machine import available_cores
from minigpt.training.settings import Settings

MB = 1_000_000


def saving(size: str, rounds: int) -> None:
    """Alternate steps and saves; print the fraction of a run's time that saving takes at the default interval."""
    with tempfile.TemporaryDirectory() as folder, Step(settings_of(size), available_cores()) as step:
        run = RunFolder(Path(folder))
        steps, saves = [], []
        for i in range(rounds):
            for _ in range(3):
                start = time.perf_counter()
                step()
                steps.append(time.perf_counter() - start)
            start = time.perf_counter()
            save(run, step.data_parallel.model, step.data_parallel.full_moments(), TrainingState(i, val_loss=1.0 + i))
            prune_checkpoints(run, Settings.keep)
            saves.append(time.perf_counter() - start)
    step_s, save_s = statistics.median(steps), statistics.median(saves)
    fraction = save_s / (save_s + Settings.checkpoint_every * step_s)
    print(
        f"{size}: step {step_s:.3f} s, save {save_s:.3f} s (longest {max(saves):.3f} s): saving takes {fraction:.2%} of the time"
    )


def memory(stories: Path, threads: int) -> None:
    """Prepare and train on 2 MB and on 200 MB, each in its own process with an empty cache; print the peak memory of each."""
    text = stories.read_bytes()[: 10 * MB]
    text = text[: text.rindex(b"<|endoftext|>")] + b"<|endoftext|>\n"
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in (2, 200):
            corpus = Path(folder) / f"{megabytes}.txt"
            with corpus.open("wb") as file:
                for start in range(0, megabytes * MB, len(text)):
                    file.write(text[: megabytes * MB - start])
                file.write(b"\n<|endoftext|>\n")
            flags = (
                f"--preset small --steps 20 --eval-every 20 --sample-every 0 --threads {threads} --out {folder}/run{megabytes}"
            )
            words = [sys.executable, "-m", "minigpt", "train", "--data", str(corpus), *flags.split()]
            env = {**os.environ, "MINIGPT_CACHE": f"{folder}/cache{megabytes}"}
            process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            peaks[megabytes] = usage.ru_maxrss / 1024
            print(
                f"{megabytes} MB: peak of {peaks[megabytes]:,.0f} MiB to prepare and train (exit code {status})",
                flush=True,
            )
            corpus.unlink()
    print(f"{peaks[200] / peaks[2]:.2f} times the memory")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=["saving", "memory"])
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.measurement == "saving":
        saving(given.size, given.rounds)
    elif given.stories:
        memory(given.stories, given.threads)
    else:
        parser.error("memory requires --stories")

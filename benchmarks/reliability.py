"""What safety costs: the time of saving at `base`, and the memory of a training on a large corpus beside a small one.

python benchmarks/reliability.py saving
python benchmarks/reliability.py memory --stories train.txt     # any text with <|endoftext|> lines; repeated to 200 MB
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minigpt.bench.step import SIZES, Step
from minigpt.train.checkpoint import State, save, thin_out
from minigpt.train.folder import RunFolder
from minigpt.train.machine import available_cores
from minigpt.train.settings import Settings

MB = 1_000_000


def saving(size: str, rounds: int) -> None:
    """Steps and saves taking turns; prints the share of a run's time that saving takes at the default interval."""
    config, batch_size = SIZES[size]
    with tempfile.TemporaryDirectory() as folder, Step(config, batch_size, available_cores()) as step:
        run = RunFolder(Path(folder))
        steps, saves = [], []
        for i in range(rounds):
            for _ in range(3):
                start = time.perf_counter()
                step()
                steps.append(time.perf_counter() - start)
            start = time.perf_counter()
            save(run, step.team.model, step.team.whole_moments(), State(i, val_loss=1.0 + i))
            thin_out(run, Settings.keep)
            saves.append(time.perf_counter() - start)
    a_step, a_save = statistics.median(steps), statistics.median(saves)
    share = a_save / (a_save + Settings.checkpoint_every * a_step)
    print(f"{size}: a step {a_step:.3f} s, a save {a_save:.3f} s (longest {max(saves):.3f}): {share:.2%} of the time")


def memory(stories: Path, threads: int) -> None:
    """Prepare and train on 2 MB and on 200 MB, each in a process of its own with a fresh cache; prints the peaks."""
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
                f"{megabytes} MB: peak {peaks[megabytes]:,.0f} MiB of the process that prepares and trains (exit {status})",
                flush=True,
            )
            corpus.unlink()
    print(f"{peaks[200] / peaks[2]:.2f} times the memory")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["saving", "memory"])
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.what == "saving":
        saving(given.size, given.rounds)
    elif given.stories:
        memory(given.stories, given.threads)
    else:
        parser.error("memory needs --stories")

"""The training loop: batch, gradients, clipping, update, and from time to time validation, samples, and checkpoints."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigpt.data.batches import batch
from minigpt.data.token_files import PreparedData
from minigpt.generate.sample import generate_text
from minigpt.np.model import GPT
from minigpt.np.ops import Dropout
from minigpt.np.sampling import SamplingOptions
from minigpt.runs.checkpoint import TrainingState, prune_checkpoints, save
from minigpt.runs.folder import RunFolder
from minigpt.runs.snapshots import is_due, save_snapshot
from minigpt.training.evaluate import evaluate
from minigpt.training.layer_norms import LayerNorms
from minigpt.training.optimizer import clip_scale
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.progress import Progress
from minigpt.training.recipe import rate
from minigpt.training.settings import Settings

SAMPLE_SEED = 0
"The seed of the samples during training: samples of the same prompt and seed can be compared over time."
MAX_CONSECUTIVE_SKIPS = 20
SAMPLE: SamplingOptions = {"temperature": 0.6, "top_k": 40}
Callback = Callable[[int, dict[str, Any], GPT], object]
"A function of the number of a step, its record for metrics.jsonl, and the model."


class NonFiniteError(ArithmeticError):
    """The loss or a gradient is infinite or not a number."""


@dataclass
class Trainer:
    """The training loop of a run. In an MPI job all ranks run it, and only the main one writes files."""

    settings: Settings
    data: PreparedData
    model: GPT
    state: TrainingState
    run: RunFolder
    data_parallel: DataParallel
    progress: Progress
    should_stop: Callable[[], bool] = lambda: False
    callback: Callback | None = None
    consecutive_skips: int = 0

    def train(self) -> bool:
        """Train to the last step or until a stop is requested, and save. Returns whether the last step was reached."""
        s, state = self.settings, self.state
        self.data_parallel.on_micro_batch = self.progress.micro_batch
        saved = state.step
        if state.step == 0:
            self.snapshot()
        if s.sample_every and s.final_samples and state.step == 0:
            self.sample_during_training()
        while state.step < s.steps and not self.data_parallel.any_rank(self.should_stop()):
            record = self.step()
            last = state.step == s.steps
            improved = (state.step % s.eval_every == 0 or last) and self.validate(record)
            if self.data_parallel.is_main:
                self.run.append("metrics.jsonl", record)
                self.progress.update(record)
                if self.callback:
                    self.call(self.callback, record)
            self.snapshot()
            if s.sample_every and state.step % s.sample_every == 0 and not last:
                self.sample_during_training()
            if improved or state.step % s.checkpoint_every == 0 or last:
                self.save()
                saved = state.step
        if saved < state.step:
            self.save()
        return state.step >= s.steps

    def call(self, callback: Callback, record: dict[str, Any]) -> None:
        """Call the callback after a step. If it raises an exception, save a checkpoint first, so that no step is lost."""
        try:
            callback(self.state.step, record, self.model)
        except Exception as error:
            self.save()
            error.add_note(f"The callback raised this after step {self.state.step:,} of {self.run.path}, which is saved.")
            raise

    def step(self) -> dict[str, Any]:
        """Run one training step; return its record for metrics.jsonl."""
        s, state = self.settings, self.state
        start = time.perf_counter()
        step = state.step + 1
        tokens, targets = batch(self.data.train, s.seed, step, s.batch_size, self.model.config.context_length)
        loss, norm = self.data_parallel.loss_and_grads(tokens, targets, Dropout(s.dropout, s.seed, step))
        factor = rate(s, step)
        norms: LayerNorms | None = None
        if skipped := not (math.isfinite(loss) and math.isfinite(norm)):
            self.skip_step(loss, step)
        else:
            self.consecutive_skips = 0
            measured = step % s.eval_every == 0 or step == s.steps
            norms = self.data_parallel.update(factor, step - state.skipped, clip_scale(norm, s.clip), measured)
        seconds = time.perf_counter() - start
        state.step, state.tokens, state.val_loss = step, state.tokens + tokens.size, None
        state.elapsed_s += seconds
        record = {
            "step": step,
            "tokens": state.tokens,
            "loss": _finite_or_none(loss),
            "lr": factor * s.lr,
            "grad_norm": _finite_or_none(norm),
            "tokens_per_s": round(tokens.size / seconds, 1),
            "elapsed_s": round(state.elapsed_s, 3),
        }
        return record | ({"skipped": state.skipped} if skipped else {}) | ({"norms": norms} if norms else {})

    def skip_step(self, loss: float, step: int) -> None:
        """Count a step whose loss or gradient is not finite. Raises `NonFiniteError` if the step must not be skipped."""
        name = self.data_parallel.first_nonfinite()
        what = f"the gradient of {name}" if name else "the gradient's norm" if math.isfinite(loss) else "the loss"
        problem = f"step {step:,}: {what} is not finite (loss {loss:.4g})"
        self.consecutive_skips += 1
        if self.settings.on_nonfinite == "stop":
            raise NonFiniteError(f"{problem}; a smaller --lr may help, or --on-nonfinite skip")
        if self.consecutive_skips == MAX_CONSECUTIVE_SKIPS:
            raise NonFiniteError(f"{problem}, for {MAX_CONSECUTIVE_SKIPS} steps in a row; a smaller --lr may help")
        self.state.skipped += 1
        self.progress.print_line(f"{problem}; skipped this step ({self.state.skipped:,} so far)")

    def validate(self, record: dict[str, Any]) -> bool:
        """Evaluate the validation split and add the result to the step's record; return whether it is the best so far."""
        start = time.perf_counter()
        with self.data_parallel.phase("validation"), self.progress.activity("validating"):
            result = evaluate(self.data_parallel, self.data.valid, self.settings.eval_tokens)
        state = self.state
        if not math.isfinite(result.loss):
            raise NonFiniteError(f"step {state.step:,}: the validation loss is not finite; a smaller --lr may help")
        record |= {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte}
        improved = state.best_val_loss is None or result.loss < state.best_val_loss
        state.val_loss = result.loss
        state.best_val_loss = result.loss if improved else state.best_val_loss
        state.elapsed_s += time.perf_counter() - start
        return improved

    def generate_sample(self, prompt: str, seed: int, max_new_tokens: int = 350) -> str:
        """Generate a sample and append it to samples.jsonl; return it without its prompt."""
        sample = generate_text(self.model, self.data.tokenizer, prompt, max_new_tokens, seed=seed, **SAMPLE)
        record = {"step": self.state.step, "prompt": prompt, "seed": seed, **SAMPLE, "text": sample.text}
        self.run.append("samples.jsonl", {**record, "pieces": sample.pieces, "surprises": sample.surprises})
        return sample.text

    def sample_during_training(self) -> None:
        """Generate the sample that shows how the text changes over the training, on the main rank, and print it."""
        with self.data_parallel.phase("sample", long=True):
            if self.data_parallel.is_main and not self.has_sample(SAMPLE_SEED):
                self.print_sample(SAMPLE_SEED, "writing a sample", short=True)

    def print_sample(self, seed: int, activity: str, short: bool = False) -> None:
        """Generate a sample with the prompt of the settings and print it, or a few lines of it."""
        prompt = self.settings.prompt
        with self.progress.activity(activity):
            text = self.generate_sample(prompt, seed)
        self.progress.print_sample(self.state.step, prompt, text, short)

    def write_final_samples(self) -> None:
        """Generate those of the final samples that are not in samples.jsonl yet, until a stop is requested."""
        number = self.settings.final_samples
        for seed in range(number):
            if not self.has_sample(seed) and not self.should_stop():
                self.print_sample(seed, f"writing sample {seed + 1} of {number}")

    def has_sample(self, seed: int) -> bool:
        """Return whether samples.jsonl has a sample of the current step with this seed."""
        return any((r.get("step"), r.get("seed")) == (self.state.step, seed) for r in self.run.records("samples.jsonl"))

    def snapshot(self) -> None:
        """Write a snapshot of the weights, if one is due at this step, on the main rank."""
        s = self.settings
        if self.data_parallel.is_main and is_due(self.state.step, s.steps, s.snapshots, self.model.parameters.flat.size):
            save_snapshot(self.run, self.model, self.state.step)

    def save(self) -> None:
        """Write a checkpoint, and delete all but the newest ones and the best. Before the last one, verify the token files."""
        with self.data_parallel.phase("saving", long=True), self.progress.activity("saving"):
            if self.state.step == self.settings.steps:
                self.data.verify()
            moments = self.data_parallel.full_moments()
            if self.data_parallel.is_main:
                save(self.run, self.model, moments, self.state)
                prune_checkpoints(self.run, self.settings.keep)


def _finite_or_none(value: float) -> float | None:
    """Return the value, or None if it is not finite, because JSON has no NaN."""
    return value if math.isfinite(value) else None

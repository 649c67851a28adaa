"""The training loop: batch, gradients, clip, update; every so often measure, tell a story, save."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigpt.data.batches import batch
from minigpt.data.token_files import Prepared
from minigpt.generate.text import stream_text
from minigpt.np.model import GPT
from minigpt.np.ops import Dropout
from minigpt.np.sampling import SamplingOptions
from minigpt.train.checkpoint import State, save, thin_out
from minigpt.train.evaluate import evaluate
from minigpt.train.folder import RunFolder
from minigpt.train.optimizer import AdamW, clip_scale
from minigpt.train.parallel import Team
from minigpt.train.progress import Progress
from minigpt.train.schedule import learning_rate
from minigpt.train.settings import Settings

FINAL_SAMPLES = 5
MOST_SKIPPED = 20  # steps in a row: a training whose every gradient is not finite learns nothing more
SAMPLE: SamplingOptions = {"temperature": 0.6, "top_k": 40}


class NotFinite(ArithmeticError):
    """The loss or a gradient became infinite or not a number."""


@dataclass
class Trainer:
    """A model in training, with everything the loop needs around it.

    Of several ranks all run the same loop; the one that leads writes to the run's folder.
    """

    settings: Settings
    data: Prepared
    model: GPT
    state: State
    run: RunFolder
    team: Team
    progress: Progress
    stop_asked: Callable[[], bool] = lambda: False
    skipped_in_a_row: int = 0

    def train(self) -> bool:
        """Train to the last step, or until asked to stop; returns whether the last step was reached. Saves at the end."""
        s, state = self.settings, self.state
        saved = state.step
        while state.step < s.steps and not self.team.agree(self.stop_asked()):
            record = self.step()
            last = state.step == s.steps
            measured = state.step % s.eval_every == 0 or last
            improved = measured and self.measure(record)
            if self.team.leads:
                self.run.append("metrics.jsonl", record)
                self.progress.show(record)
                if s.sample_every and state.step % s.sample_every == 0 and not last:
                    self.progress.story(state.step, self.tell(s.prompt, seed=state.step))
            if improved or state.step % s.checkpoint_every == 0 or last:
                self.save()
                saved = state.step
        if saved < state.step:
            self.save()
        return state.step >= s.steps

    def step(self) -> dict[str, Any]:
        """One training step; returns its line for metrics.jsonl."""
        s, state = self.settings, self.state
        start = time.perf_counter()
        step = state.step + 1
        tokens, targets = batch(self.data.train.tokens, s.seed, step, s.batch_size, self.model.config.context_length)
        loss, norm = self.team.loss_and_grads(tokens, targets, Dropout(s.dropout, s.seed, step))
        lr = learning_rate(step, s.steps, s.lr, s.warmup_steps, s.final_lr)
        if skipped := not (math.isfinite(loss) and math.isfinite(norm)):
            self.skip(loss, step)
        else:
            self.skipped_in_a_row = 0
            optimizer = AdamW(s.beta1, s.beta2, weight_decay=s.weight_decay)
            self.team.update(optimizer, lr, step - state.skipped, clip_scale(norm, s.clip))
        seconds = time.perf_counter() - start
        state.step, state.tokens, state.val_loss = step, state.tokens + tokens.size, None
        state.elapsed_s += seconds
        return {
            "step": step,
            "tokens": state.tokens,
            "loss": loss if math.isfinite(loss) else None,  # JSON has no NaN
            "lr": lr,
            "grad_norm": norm if math.isfinite(norm) else None,
            "tokens_per_s": round(tokens.size / seconds, 1),
            "elapsed_s": round(state.elapsed_s, 3),
            **({"skipped": state.skipped} if skipped else {}),
        }

    def skip(self, loss: float, step: int) -> None:
        """Count a step whose gradient is not finite; raises `NotFinite` where such a step is not to be skipped."""
        name = self.team.not_finite()
        what = f"the gradient of {name}" if name else "the gradient's norm" if math.isfinite(loss) else "the loss"
        what += f" is not finite (loss {loss:.4g})"
        self.skipped_in_a_row += 1
        if self.settings.on_nonfinite == "stop":
            raise NotFinite(f"step {step}: {what}; a smaller --lr may help, or --on-nonfinite skip")
        if self.skipped_in_a_row == MOST_SKIPPED:
            raise NotFinite(f"step {step}: {what}, for {MOST_SKIPPED} steps in a row; a smaller --lr may help")
        self.state.skipped += 1
        self.progress.say(f"step {step:,}: {what}: skipped, the {self.state.skipped:,}. so far.")

    def measure(self, record: dict[str, Any]) -> bool:
        """Validate, and add to the step's line; returns whether it never was better."""
        start = time.perf_counter()
        result = evaluate(self.team, self.data.valid, self.settings.eval_tokens)
        state = self.state
        if not math.isfinite(result.loss):
            raise NotFinite(f"step {state.step}: the validation loss is not finite; a smaller --lr may help")
        record |= {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte}
        improved = state.best_val_loss is None or result.loss < state.best_val_loss
        state.val_loss = result.loss
        state.best_val_loss = result.loss if improved else state.best_val_loss
        state.elapsed_s += time.perf_counter() - start
        return improved

    def tell(self, prompt: str, seed: int, max_new_tokens: int = 350) -> str:
        """A sample story, added to samples.jsonl; returns it, the prompt included."""
        text = "".join(stream_text(self.model, self.data.tokenizer, prompt, max_new_tokens, seed=seed, **SAMPLE))
        record = {"step": self.state.step, "prompt": prompt, "seed": seed, **SAMPLE, "text": text}
        self.run.append("samples.jsonl", record)
        return prompt + text

    def tell_last_stories(self) -> None:
        """Tell those of the last stories that are not in samples.jsonl, until asked to stop."""
        told = {(record.get("step"), record.get("seed")) for record in self.run.records("samples.jsonl")}
        for seed in range(FINAL_SAMPLES):
            if (self.state.step, seed) not in told and not self.stop_asked():
                self.progress.story(self.state.step, self.tell(self.settings.prompt, seed))

    def save(self) -> None:
        """Write a checkpoint; keep the newest ones and the best."""
        moments = self.team.whole_moments()
        if self.team.leads:
            save(self.run, self.model, moments, self.state)
            thin_out(self.run, self.settings.keep)

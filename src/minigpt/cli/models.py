"""Commands that use a trained model."""

import json
import math
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from minigpt import __version__
from minigpt.cli.app import Integer, NonEmptyPath, Switch, app, check_minimum, given_once
from minigpt.data.printable import printable

if TYPE_CHECKING:
    from minigpt.data.tokenizer import Tokenizer
    from minigpt.generate.text import TextGenerator
    from minigpt.np.generation import GenerationStep
    from minigpt.np.model import GPT
    from minigpt.np.sampling import SamplingOptions
    from minigpt.runs.folder import RunFolder

RunName = Annotated[
    str,
    Parameter(
        help="Run (or its name in runs/), RUN@64 for its weights after step 64, checkpoint, Hugging Face directory, or name on "
        "the hub."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SampleFlags:
    """The flags of `minigpt sample`.

    Parameters
    ----------
    prompt
        Beginning of the text.
    prompt_ids
        Prompt as token ids, for a model without a tokenizer; nothing precedes them, and ids are printed.
    max_new_tokens
        Maximum number of tokens to generate; an end-of-text token ends the sample earlier.
    temperature
        Divisor of the logits: below 1 sharpens the distribution, above 1 flattens it, and 0 takes the most likely token.
    top_k
        Sample from this many of the most likely tokens; 0 means all tokens.
    top_p
        Sample from the most likely tokens whose probabilities add up to this number.
    min_p
        Sample from the tokens whose probability is at least this fraction of the highest one.
    repetition_penalty
        Values above 1 make tokens that have already occurred less likely.
    greedy
        Take the most likely token, as --temperature 0 does.
    seed
        Seed of the first sample; each further sample uses the next seed.
    n
        Number of samples. They are generated together, and the first is printed while it is generated.
    stop
        Text that ends a sample and is not printed; can be given several times.
    stop_token
        Token id that ends a sample, instead of the end-of-text token; can be given several times.
    overflow
        If the text exceeds context_length, use only the last tokens (slide), or raise an error before generation (refuse).
    show_probabilities
        Print one line per token: its probability, colored by surprise, and the most likely alternatives.
    """

    prompt: Annotated[str, Parameter(show_default=False)] = ""
    prompt_ids: Annotated[tuple[Integer, ...] | None, Parameter(consume_multiple=True, negative_iterable="")] = None
    max_new_tokens: Integer = 200
    temperature: float = 0.8
    top_k: Integer = 40
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    greedy: Switch = False
    seed: Integer = 0
    n: Annotated[Integer, Parameter(name=["-n", "--number"])] = 1
    stop: Annotated[tuple[str, ...], Parameter(negative_iterable="", show_default=False)] = ()
    stop_token: Annotated[tuple[Integer, ...], Parameter(negative_iterable="", show_default=False)] = ()
    overflow: Literal["slide", "refuse"] = "slide"
    show_probabilities: Switch = False

    def check(self) -> None:
        """Raise `ValueError` if a flag is invalid, before the model is loaded."""
        from minigpt.np.sampling import Sampling

        check_minimum(1, max_new_tokens=self.max_new_tokens, number=self.n)
        check_minimum(0, top_k=self.top_k, seed=self.seed)
        Sampling(**self.options())
        if self.prompt_ids == ():
            raise ValueError("--prompt-ids is empty, but must be at least one token id")
        if self.prompt_ids is not None and (self.prompt or self.stop):
            raise ValueError("--prompt-ids cannot be combined with --prompt or --stop")

    def options(self) -> "SamplingOptions":
        """Return the sampling options."""
        return {
            "temperature": 0.0 if self.greedy else self.temperature,
            "top_k": self.top_k or None,
            "top_p": None if self.top_p == 1 else self.top_p,
            "min_p": None if self.min_p == 0 else self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }

    @property
    def seeds(self) -> range:
        """The seeds of the samples."""
        return range(self.seed, self.seed + self.n)


@app.command
def sample(
    run: RunName,
    *text: Annotated[str, Parameter(help="Beginning of the text, as with --prompt.", group="Parameters")],
    flags: SampleFlags = SampleFlags(),
) -> None:
    """Generate text with a trained model."""
    from minigpt.interop.load import load_finite

    if text and flags.prompt:
        raise ValueError(f"the prompt is given both as an argument ({text[0]!r}) and with --prompt: give it in one way")
    flags = replace(flags, prompt=flags.prompt or " ".join(text))
    flags.check()
    model, tokenizer = load_finite(run)
    if flags.prompt_ids is not None:
        _sample_ids(model, flags.prompt_ids, flags)
    elif tokenizer is None:
        raise ValueError(f"{run} has no tokenizer (tokenizer.json): give the prompt as --prompt-ids")
    else:
        _sample_text(model, tokenizer, flags)


def _sample_text(model: "GPT", tokenizer: "Tokenizer", flags: SampleFlags) -> None:
    from minigpt.generate.text import TextGenerator

    def generator(seeds: Sequence[int]) -> TextGenerator:
        prompts, stop_tokens = [flags.prompt] * len(seeds), flags.stop_token or None
        shared = (flags.max_new_tokens, seeds, flags.stop, stop_tokens, flags.overflow)
        return TextGenerator(model, tokenizer, prompts, *shared, **flags.options())

    if flags.show_probabilities:
        for seed in flags.seeds:
            _print_probabilities(generator([seed]).steps, lambda token: repr(tokenizer.decode([token])))
    else:
        _print_texts(flags.prompt, generator(flags.seeds))


def _print_texts(prompt: str, generator: "TextGenerator") -> None:
    """Print the first text while it is generated, and then the others."""
    texts = [printable(prompt)] * generator.n
    print(texts[0], end="", flush=True)
    for chunks in generator.chunks():
        chunks = list(map(printable, chunks))
        print(chunks[0], end="", flush=True)
        texts = [text + chunk for text, chunk in zip(texts, chunks, strict=True)]
    print("".join(f"\n{'-' * 40}\n{text}" for text in texts[1:]))


def _sample_ids(model: "GPT", prompt_ids: Sequence[int], flags: SampleFlags) -> None:
    """Print one line of new token ids per seed or, with --show-probabilities, one line per token."""

    def steps(seeds: Sequence[int]) -> Iterable["GenerationStep"]:
        return model.steps(
            [prompt_ids] * len(seeds),
            flags.max_new_tokens,
            seeds=seeds,
            stop_tokens=flags.stop_token,
            overflow=flags.overflow,
            **flags.options(),
        )

    if flags.show_probabilities:
        for seed in flags.seeds:
            _print_probabilities(steps([seed]), str)
        return
    columns = [step.tokens for step in steps(flags.seeds)]
    for b in range(flags.n):
        print(*(int(column[b]) for column in columns if column[b] >= 0))


def _print_probabilities(steps: Iterable["GenerationStep"], name: Callable[[int], str]) -> None:
    from rich.console import Console

    from minigpt.generate.surprise import token_surprises

    console = Console(soft_wrap=True, highlight=False)
    for surprise in token_surprises(steps):
        line = surprise.line(name)
        if console.is_terminal:
            console.print(line)
        else:
            print(line.plain, flush=True)  # console.print would exit if the reader has closed the pipe


@app.command
def export(run: RunName, directory: NonEmptyPath) -> None:
    """Export a trained model to a Hugging Face directory, which transformers loads as Qwen 3, Llama or GPT-2.

    Weights that are not finite are exported as they are, with a warning.

    Parameters
    ----------
    directory
        Folder to create; it must not exist or must be empty.
    """
    from minigpt.interop.hugging_face import export
    from minigpt.interop.load import load
    from minigpt.np.parameters import first_nonfinite

    model, tokenizer = load(run)
    if name := first_nonfinite(model.parameters):
        warnings.warn(
            f"{run}: {name} has weights that are not finite (NaN or infinite); they are exported as they are", stacklevel=1
        )
    export(model, tokenizer, directory)
    print(printable(f"Written to {directory}: transformers.AutoModelForCausalLM.from_pretrained({str(directory)!r})"))


@app.command(name="import")
def import_(
    directory: Annotated[
        str, Parameter(help="Hugging Face directory, or name on the Hugging Face hub, of a GPT-2, Llama or Qwen 3 model.")
    ],
    run: Annotated[NonEmptyPath, Parameter(help="Folder to create; it must not exist or must be empty.")],
) -> None:
    """Import a Hugging Face directory as a run. (The other commands can also use the directory itself.)"""
    from minigpt.interop.load import import_directory
    from minigpt.runs.folder import RunFolder

    model = import_directory(directory, RunFolder(run), __version__)
    print(printable(f"{model.parameters.flat.size:,} parameters written to {run}: minigpt sample {shlex.quote(str(run))}"))


@app.command(name="eval")
def evaluate(
    run: RunName,
    *files: Annotated[str, Parameter(help="Text, as with --data.", group="Parameters")],
    data: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative_iterable="")] = None,
    field: str = "text",
    threads: Integer = 0,
    json_: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Evaluate a trained model on a text.

    Parameters
    ----------
    data
        Files or folders of text (.txt, .jsonl, .gz), or - for standard input. [default: the validation text of the run]
    field
        Field of .jsonl records that contains the text.
    threads
        Number of threads; 0 means all cores that this process may use.
    json_
        Print the result as JSON.
    """
    from minigpt.api.evaluate import evaluate, own_run

    def say(line: str) -> None:
        print(printable(line), file=sys.stderr)

    data = given_once(files, data)
    if data is None and sys.stderr.isatty():  # it is tokenized again if it is no longer in the cache
        say("Reading the validation text of the run ...")
    result = evaluate(run, data, field=field, threads=threads, say=say)
    measured_on = ", ".join(data) if data else f"the validation text of {own_run(run).path}"
    if json_:
        print(json.dumps({"data": measured_on, **asdict(result)}))
    else:
        print(printable(f"measured on {measured_on}: {result.tokens:,} tokens"))
        perplexity = f"perplexity {result.perplexity:.2f}"
        print(f"loss {result.loss:.4f} nats per token, {result.bits_per_byte:.4f} bits per byte, {perplexity}")
        print(f"accuracy {result.accuracy:.1%} (how often the most likely token was correct)")


@app.command
def info(run: RunName | None = None) -> None:
    """Describe this machine, or a trained model."""
    from minigpt.training.machine import available_cores, describe

    if run is None:
        facts: dict[str, Any] = {"minigpt": __version__, **describe(available_cores())}
    else:
        from minigpt.api.evaluate import own_run
        from minigpt.interop.load import find_model, read_config
        from minigpt.np.parameters import shapes

        path = find_model(run)
        config = read_config(path)
        facts = {"model": str(path), "parameters": f"{sum(map(math.prod, shapes(config).values())):,}", **asdict(config)}
        if (folder := own_run(run)).snapshots.is_dir():
            facts["snapshots"] = _snapshot_steps(folder)
    for name, value in facts.items():
        print(printable(f"{name:16} {value}"))


def _snapshot_steps(run: "RunFolder") -> str:
    """List the steps of the snapshots of a run, and the size of one of them."""
    from minigpt.runs.checkpoint import MODEL, step_of
    from minigpt.runs.snapshots import snapshots

    found = snapshots(run)
    if not found:
        return "none"
    size = (found[-1] / MODEL).stat().st_size / 1e6
    name = shlex.quote(f"{run.path}@{step_of(found[-1])}")
    return f"steps {', '.join(str(step_of(path)) for path in found)} ({size:.1f} MB each), named like {name}"

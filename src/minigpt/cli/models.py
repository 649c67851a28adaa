"""Commands that use a trained model."""

import json
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from minigpt import __version__
from minigpt.cli.app import Switch, Whole, app, at_least, whole

if TYPE_CHECKING:
    from minigpt.generate.text import Telling
    from minigpt.np.generation import Step

RunName = Annotated[str, Parameter(help="A run, one of its checkpoints, a Hugging Face directory, or a name on the hub.")]


@app.command
def sample(
    run: RunName,
    *,
    prompt: Annotated[str, Parameter(help="How the text begins.")] = "",
    prompt_ids: Annotated[tuple[Whole, ...] | None, Parameter(consume_multiple=True, negative_iterable="")] = None,
    max_new_tokens: Whole = 200,
    temperature: float = 0.8,
    top_k: Whole = 40,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    greedy: Switch = False,
    seed: Whole = 0,
    n: Annotated[int, Parameter(name=["-n", "--number"], converter=whole)] = 1,
    stop: Annotated[tuple[str, ...], Parameter(negative_iterable="")] = (),
    stop_token: Annotated[tuple[Whole, ...], Parameter(negative_iterable="")] = (),
    overflow: Literal["slide", "refuse"] = "slide",
    show_probabilities: Switch = False,
) -> None:
    """Let a trained model continue a prompt, printed as it is written.

    Parameters
    ----------
    prompt_ids
        The prompt as token ids, for a model without a tokenizer; ids are printed, and nothing is put before them.
    max_new_tokens
        Most tokens to add; an end of text ends it before.
    temperature
        0 takes the likeliest token; below 1 is more careful, above 1 wilder.
    top_k
        Draw among this many likeliest tokens; 0 is all of them.
    top_p
        Draw among the likeliest tokens that together have this probability.
    min_p
        Draw among tokens at least this times as likely as the likeliest.
    repetition_penalty
        Above 1 makes tokens that occurred already less likely.
    greedy
        Always the likeliest token: --temperature 0.
    seed
        Seed of the first sample; the others count up from it.
    n
        How many samples. They are made together: the first is printed as it is written.
    stop
        A text that ends a sample, and is not printed; may be given several times.
    stop_token
        A token id that ends a sample, in place of the end of text; may be given several times.
    overflow
        Beyond context_length: the model sees the last tokens (slide), or nothing is generated (refuse).
    show_probabilities
        A line for each token: its probability, coloured by surprise, and the likeliest others.
    """
    from minigpt.interop.load import load
    from minigpt.np.sampling import Sampling, SamplingOptions

    at_least(1, max_new_tokens=max_new_tokens, number=n)
    at_least(0, top_k=top_k, seed=seed)
    options: SamplingOptions = {
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k or None,
        "top_p": None if top_p == 1 else top_p,
        "min_p": None if min_p == 0 else min_p,
        "repetition_penalty": repetition_penalty,
    }
    Sampling(**options)
    if prompt_ids == ():
        raise ValueError("--prompt-ids is empty, but must be at least one token id")
    if prompt_ids is not None and (prompt or stop):
        raise ValueError("--prompt-ids goes without --prompt and --stop")
    model, tokenizer = load(run)
    seeds = range(seed, seed + n)
    if prompt_ids is not None:
        more = partial(model.steps, max_new_tokens=max_new_tokens, stop_tokens=stop_token, overflow=overflow, **options)
        return _sample_ids(lambda seeds: more([prompt_ids] * len(seeds), seeds=seeds), seeds, show_probabilities)
    if tokenizer is None:
        raise ValueError(f"{run} has no tokenizer (tokenizer.json): give the prompt as --prompt-ids")

    def telling(seeds: Sequence[int]) -> "Telling":
        from minigpt.generate.text import Telling

        prompts = [prompt] * len(seeds)
        return Telling(model, tokenizer, prompts, max_new_tokens, seeds, stop, stop_token or None, overflow, **options)

    if show_probabilities:
        for i in seeds:
            _show(telling([i]).steps, lambda token: repr(tokenizer.decode([token])))
    else:
        _sample_text(prompt, telling(seeds))


def _sample_text(prompt: str, telling: "Telling") -> None:
    """Print the first text as it is written, then the others."""
    texts = [prompt] * telling.n
    print(prompt, end="", flush=True)
    for pieces in telling.pieces():
        print(pieces[0], end="", flush=True)
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    print("".join(f"\n{'-' * 40}\n{text}" for text in texts[1:]))


def _sample_ids(steps: Callable[[Sequence[int]], Iterable["Step"]], seeds: Sequence[int], show_probabilities: bool) -> None:
    """Print a line of new token ids for each seed, or a line for each token with its probability."""
    if show_probabilities:
        for seed in seeds:
            _show(steps([seed]), str)
        return
    columns = [step.tokens for step in steps(seeds)]
    for b in range(len(seeds)):
        print(*(int(column[b]) for column in columns if column[b] >= 0))


def _show(steps: Iterable["Step"], name: Callable[[int], str]) -> None:
    from rich.console import Console

    from minigpt.generate.surprise import surprises

    console = Console(soft_wrap=True, highlight=False)
    for told in surprises(steps):
        line = told.line(name)
        if console.is_terminal:
            console.print(line)
        else:
            print(line.plain, flush=True)  # the console would end the program itself, were the reader of a pipe gone


@app.command
def export(run: RunName, directory: Path) -> None:
    """Write a trained model as a Hugging Face directory, which transformers loads as GPT-2 or Llama.

    Parameters
    ----------
    directory
        A folder that does not exist yet, or is empty.
    """
    from minigpt.interop.hugging_face import export
    from minigpt.interop.load import load

    model, tokenizer = load(run)
    export(model, tokenizer, directory)
    print(f"Written to {directory}: transformers.AutoModelForCausalLM.from_pretrained({str(directory)!r})")


@app.command(name="import")
def import_(
    directory: Annotated[str, Parameter(help="A Hugging Face directory, or a name on the hub: GPT-2 or Llama.")],
    run: Annotated[Path, Parameter(help="A folder that does not exist yet, or is empty.")],
) -> None:
    """Make a run of a Hugging Face directory. (Every command that takes a run takes such a directory as it is, too.)"""
    from minigpt.interop.load import import_directory
    from minigpt.train.folder import RunFolder

    model = import_directory(directory, RunFolder(run), __version__)
    print(f"{model.parameters.flat.size:,} parameters written to {run}: minigpt sample {shlex.quote(str(run))}")


@app.command(name="eval")
def evaluate(
    run: RunName,
    *,
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable="")],
    threads: Whole = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure how well a trained model predicts the whole of a text.

    Parameters
    ----------
    data
        Files or folders of text.
    threads
        Threads to compute with; 0 is all cores this process may use.
    json_
        Print JSON.
    """
    from minigpt.data.token_files import encode_files
    from minigpt.interop.load import load_with_tokenizer
    from minigpt.train.evaluate import evaluate
    from minigpt.train.machine import available_cores
    from minigpt.train.parallel import Team

    at_least(0, threads=threads)
    model, tokenizer = load_with_tokenizer(run)
    split = encode_files(data, tokenizer)
    with Team(model, threads or available_cores()) as team:
        result = evaluate(team, split)
    if json_:
        print(json.dumps(asdict(result)))
    else:
        print(
            f"loss {result.loss:.4f} nats per token, {result.bits_per_byte:.4f} bits per byte, perplexity {result.perplexity:.2f}"
        )
        print(f"the likeliest token was right for {result.accuracy:.1%} of {result.tokens:,} tokens")


@app.command
def info(run: RunName | None = None) -> None:
    """Describe this machine, or a trained model."""
    from minigpt.train.machine import available_cores, describe

    if run is None:
        facts: dict[str, Any] = {"minigpt": __version__, **describe(available_cores())}
    else:
        from minigpt.interop.load import find, read_config
        from minigpt.np.parameters import shapes

        path = find(run)
        config = read_config(path)
        facts = {"model": str(path), "parameters": f"{sum(map(math.prod, shapes(config).values())):,}", **asdict(config)}
    for name, value in facts.items():
        print(f"{name:16} {value}")

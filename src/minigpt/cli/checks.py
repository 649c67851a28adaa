"""Commands that check the gradients and measure the speed on this machine."""

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from minigpt.cli.app import Integer, Switch, app, check_minimum


@app.command
def gradcheck(*, quick: Switch = False, verbose: Switch = False) -> int:
    """Check every gradient against finite differences and, if it is installed, against PyTorch.

    Parameters
    ----------
    quick
        Skip the checks of training and the planted faults.
    verbose
        Print a line for each check and for each planted fault.
    """
    from minigpt.proof.gradcheck import gradcheck

    return 0 if gradcheck(quick, verbose) else 1


@app.command
def bench(
    size: str = "small",
    *,
    threads: Integer = 0,
    seconds: float = 20.0,
    json_: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Measure the speed of a training step on this machine, and how its time is divided among the operations.

    Parameters
    ----------
    size
        Preset to measure: quick, nano, tiny, small, base, gpt2 (with a context of 64 tokens), llama-tiny or llama-15m.
    threads
        Number of workers, each on one core; 0 means all cores that this process may use.
    seconds
        Approximate duration of the measurement.
    json_
        Print the results as JSON.
    """
    from minigpt.bench.step import SIZES, measure, settings_of
    from minigpt.training.machine import available_cores

    check_minimum(0, threads=threads)
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, but must be one of: {', '.join(SIZES)}")
    settings = settings_of(size)
    result = measure(settings, threads or available_cores(), seconds)
    if json_:
        print(json.dumps(asdict(result)))
        return
    print(f"{result.tokens_per_s:,.0f} tokens/s: {size}, {settings.batch_size} x {settings.context_length} tokens per step")
    print(f"{result.gflop_per_s:,.0f} GFLOP/s of matrix products, averaged over the whole step")
    print(f"{result.roofline_share:.0%} of the speed of its matrix products alone")
    print(f"{result.update_share:.1%} of the time for the update of the parameters ({settings.optimizer})\n")
    for name, share in result.operations.items():
        if share >= 0.002:
            print(f"{share:6.1%}  {name}")
    print(f"{1 - sum(result.operations.values()):6.1%}  the rest of the update, waiting for other workers, Python overhead")

"""What the engine itself costs: the time outside native calls, per generated token, at 8 streams.

    python tests/bench/overhead.py --model PATH [--threads 2]

The engine runs in this process, as it does in a worker. Every function of the llama.cpp bindings is
wrapped with a timer; what is left of the steps' time is Python's and numpy's: planning, filling the
batch, sampling, stop strings, messages. The timers' own cost is measured with a function that does
nothing, and subtracted. 8 prompts of 128 tokens, 128 tokens of output each, temperature 0.8, top-k
40, prefill included.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import texts

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.options import Sampling, Segment
from lmnb.engine.protocol import Failed, Generate, Step

STREAMS, PROMPT, OUTPUT = 8, 128, 128


class Timers:
    """Time and number of the native calls so far. Nanoseconds."""

    def __init__(self) -> None:
        self.inside = 0
        self.calls = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        def timed(*arguments: Any) -> Any:
            began = perf_counter_ns()
            result = function(*arguments)
            self.inside += perf_counter_ns() - began
            self.calls += 1
            return result

        return timed

    def install(self) -> None:
        """Time every `llama_` function of the bindings."""
        for name in dir(native.L):
            function = getattr(native.L, name)
            if name.startswith("llama_") and hasattr(function, "restype"):
                setattr(native.L, name, self.wrap(function))

    def cost(self) -> float:
        """Nanoseconds by which a timer lengthens a call, beyond what it counts as inside."""
        timers = Timers()
        count = 100_000

        def nothing() -> None: ...

        timed = timers.wrap(nothing)
        began = perf_counter_ns()
        for _ in range(count):
            timed()
        with_timers = perf_counter_ns() - began - timers.inside
        began = perf_counter_ns()
        for _ in range(count):
            pass
        return (with_timers - (perf_counter_ns() - began)) / count


def submit(generator: Generator, dice: random.Random) -> None:
    """Queue the eight requests."""
    for index in range(STREAMS):
        command = Generate(
            id=index + 1,
            segments=(Segment(texts.words(PROMPT, dice)),),
            sampling=Sampling(seed=index, logit_bias={0: -100.0, 2: -100.0}),
            max_tokens=OUTPUT,
        )
        generator.submit(command, generator.prompt(command))


def run(generator: Generator) -> tuple[int, int]:
    """Step until nothing is left: nanoseconds inside `step`, and tokens generated."""
    spent = tokens = 0
    while generator.busy:
        began = perf_counter_ns()
        replies = generator.step()
        spent += perf_counter_ns() - began
        for reply in replies:
            if isinstance(reply, Failed):
                raise RuntimeError(reply.error["message"])  # noqa: TRY004
            if isinstance(reply, Step):
                tokens += sum(end.output_tokens for end in reply.ends)
    return spent, tokens


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    native.init(print)
    config = LoadConfig(context_length=1024, parallel=STREAMS, threads=arguments.threads)
    path = arguments.model
    model = Model.load(str(path), read_header(path), config, on_progress=lambda _: None)
    generator = Generator(model, config)
    dice = random.Random(arguments.seed)
    submit(generator, dice)
    run(generator)  # once without being watched
    timers = Timers()
    timers.install()
    gc.collect()
    gc.freeze()
    gc.disable()  # as in a worker
    submit(generator, dice)
    timers.inside = timers.calls = 0
    spent, tokens = run(generator)
    own = spent - timers.inside - timers.calls * timers.cost()
    figures = {
        "microseconds_per_token": own / tokens / 1000,
        "native_microseconds_per_token": timers.inside / tokens / 1000,
        "native_calls_per_token": timers.calls / tokens,
        "tokens": tokens,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

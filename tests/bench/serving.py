"""Tokens per second and time to first token against llama.cpp's own server.

    python tests/bench/serving.py --llama-server PATH [--rounds 5] [--levels 1 4 16]

The peer is `llama-server` built from vendor/llama.cpp of the source distribution of the
llama-cpp-python that is installed, with the same CMake options (see README). Both get the same model
file, threads, context and slots. The workload: streamed completions, prompts of about 128 tokens that
have nothing in common, so that no cache helps, 128 tokens of output (end-of-text is forbidden by a
logit bias), temperature 0.8, top-k 40, top-p 0.95, min-p 0.05. Rounds alternate which server goes
first, and each round starts both servers anew. The figures are medians over the rounds, with the
lowest and the highest; the ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import load
import servers

WORDS = [
    "river",
    "stone",
    "cloud",
    "garden",
    "window",
    "paper",
    "silver",
    "morning",
    "engine",
    "harbour",
    "candle",
    "forest",
    "mirror",
    "winter",
    "bridge",
    "orange",
    "pencil",
    "village",
    "thunder",
    "blanket",
    "copper",
    "meadow",
    "signal",
    "desert",
    "lantern",
]
PROMPT_WORDS = 110
OUTPUT_TOKENS = 128
END_TOKENS = {"0": -100, "2": -100}  # SmolLM2's <|endoftext|> and <|im_end|>


@dataclass(frozen=True)
class Figures:
    """One server, one level, one round."""

    tokens_per_second: float
    first_token: float


Serve = Callable[[Path], AbstractContextManager[int]]


def bodies(level: int, dice: random.Random) -> list[dict[str, object]]:
    """`level` requests with distinct prompts."""
    return [
        {
            "model": "bench",
            "prompt": " ".join(dice.choices(WORDS, k=PROMPT_WORDS)),
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 0.8,
            "top_k": 40,
            "top_p": 0.95,
            "min_p": 0.05,
            "seed": dice.randrange(1 << 30),
            "logit_bias": END_TOKENS,
        }
        for _ in range(level)
    ]


def measure(serve: Serve, scratch: Path, levels: list[int], seed: int) -> dict[int, Figures]:
    """Start a server, warm it up with one request, and run every level on it."""
    dice = random.Random(seed)
    found = {}
    with serve(scratch) as port:
        asyncio.run(load.run(port, bodies(1, dice)))
        for level in levels:
            seconds, answers = asyncio.run(load.run(port, bodies(level, dice)))
            tokens = sum(answer.output_tokens for answer in answers)
            if tokens != level * OUTPUT_TOKENS:
                raise RuntimeError(f"{tokens} tokens instead of {level * OUTPUT_TOKENS}")
            first = statistics.mean(answer.first_token for answer in answers)
            found[level] = Figures(tokens / seconds, first)
    return found


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):8.3g} ({min(values):.3g} to {max(values):.3g})"


def report(
    levels: list[int], ours: list[dict[int, Figures]], theirs: list[dict[int, Figures]]
) -> None:
    """Print the table."""
    rows = (("tokens/s", "tokens_per_second"), ("first token, s", "first_token"))
    for level in levels:
        for title, name in rows:
            mine = [getattr(figures[level], name) for figures in ours]
            peer = [getattr(figures[level], name) for figures in theirs]
            ratios = [a / b for a, b in zip(mine, peer, strict=True)]
            print(
                f"{level:3} streams  {title:14}  lmnb {spread(mine)}  llama-server {spread(peer)}"
                f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def same_build(binary: Path, options: servers.Options, scratch: Path) -> str:
    """The features both builds have; stops if they differ."""
    log = scratch / "peer.log"
    with servers.llama_server(binary, options, log, "-lv", "5"):  # or it is not logged
        pass
    peer = servers.system_info(log.read_text(errors="replace"))
    command = [sys.executable, "-m", "lmnb.engine.devices"]
    own = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    mine = servers.system_info(own.replace('"}', "\n"))
    if mine != peer:
        sys.exit(f"The builds differ, so no ratio is meaningful.\nlmnb: {mine}\npeer: {peer}")
    return mine


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument(
        "--model", type=Path, required=True, help="the GGUF of SmolLM2-135M-Instruct"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    options = servers.Options(arguments.model, 8192, max(arguments.levels), arguments.threads)
    ours: list[dict[int, Figures]] = []
    theirs: list[dict[int, Figures]] = []
    with tempfile.TemporaryDirectory(prefix="lmnb-bench-") as name:
        scratch = Path(name)
        print(f"{platform.platform()}, load {os.getloadavg()[0]:.2f}, {options}")
        print(same_build(arguments.llama_server, options, scratch))

        def peer(folder: Path) -> AbstractContextManager[int]:
            return servers.llama_server(arguments.llama_server, options, folder / "peer.log")

        def lmnb(folder: Path) -> AbstractContextManager[int]:
            return servers.lmnb_server(options, folder / "home", folder / "lmnb.log")

        for round_ in range(arguments.rounds):
            order: list[tuple[Serve, list[dict[int, Figures]]]] = [(lmnb, ours), (peer, theirs)]
            for serve, found in order if round_ % 2 == 0 else reversed(order):
                found.append(measure(serve, scratch, arguments.levels, seed=round_))
            print(f"round {round_ + 1}: lmnb {ours[-1]}, llama-server {theirs[-1]}", flush=True)
    report(arguments.levels, ours, theirs)


if __name__ == "__main__":
    main()

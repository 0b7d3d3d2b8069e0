"""`df.lm.map` against the loops it replaces: rows per second over one table.

    python tests/bench/tables.py --llama-server PATH --model PATH

A table of 200 rows; each asks about a text of 40 to 60 tokens under a system message of about 350
tokens that all of them share. Temperature 0. Two workloads: `label` wants JSON with one of six labels
(`response_format`, or `schema` of `map`), `words` a text of 16 tokens at most.

Five ways, all in one process with the same texts: `map` on lmnb; a loop over the openai client, one
request after the other, and 16 threads that share a client, on llama.cpp's server with its defaults;
the same two on lmnb's server. The model is loaded and has answered once before a way begins; the
system message is new to the server every time, but for loops, which are timed over the first 60 rows
after it has been read. Rows are new to lmnb's cache. Servers run one after
the other, with their own defaults but the number of threads, which is the same. Rounds alternate which
server goes first. A ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI

sys.path.insert(0, str(Path(__file__).parent))
import servers
import serving
import table
import texts
from rows import Figure

import lmnb.frame  # noqa: F401  (puts `.lm` on tables)

_DEFAULTS = servers.Deployment("each server's defaults", slots=0, context=0)
_MAX_TOKENS = {"label": 48, "words": 16}
"""Of an answer. llama-server's grammar lets the model write white space, so that a label needs room."""
_THREADS = 16
_LOOP = 60
"""Rows after which a loop's pace is known."""
_TOPICS = ["weather", "money", "animals", "music", "travel", "cooking"]
_SCHEMA = {
    "type": "object",
    "properties": {"topic": {"type": "string", "enum": _TOPICS}},
    "required": ["topic"],
    "additionalProperties": False,
}
_FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}


@dataclass
class Task:
    """One table and what is asked about it."""

    system: str
    texts: list[str]
    typed: bool
    max_tokens: int

    def body(self, text: str) -> dict[str, Any]:
        """What `map` sends for a row, but the name of the model."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": text}]
        form = {"response_format": _FORM} if self.typed else {}
        return {"messages": messages, "max_tokens": self.max_tokens, "temperature": 0.0, **form}


@dataclass
class Way:
    """What one way took, by workload: rows per second, and tokens of prompt and answer per row."""

    rates: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, tuple[float, float]] = field(default_factory=dict)


def make_task(workload: str, rows: int, dice: random.Random) -> Task:
    """A table that neither server has seen."""
    system = "You sort short notes by topic. Background:" + texts.words(330, dice) + "."
    notes = [f"Note {n}:" + texts.words(dice.randint(35, 55), dice) + "." for n in range(rows)]
    return Task(system, notes, typed=workload == "label", max_tokens=_MAX_TOKENS[workload])


# --- the ways ------------------------------------------------------------------------


def by_map(_: OpenAI, task: Task) -> tuple[float, float]:
    """`df.lm.map` with its defaults; a cut answer is not asked for again, as in the loops."""
    schema = {"topic": _TOPICS} if task.typed else None
    frame = pd.DataFrame({"note": task.texts})
    found = frame.lm.map(
        "{note}", schema, system=task.system, model="bench", max_tokens=task.max_tokens,
        retries=0, progress=False,
    )  # fmt: skip
    counts = found.attrs["lmnb"]
    failed = [why for why in found["out_error"].dropna() if not why.startswith("length")]
    if failed or counts["cached"]:
        raise RuntimeError(f"map: {counts}, {failed[:1]}")
    return float("nan"), counts["tokens"] / len(task.texts)


def by_loop(client: OpenAI, task: Task) -> tuple[float, float]:
    """One request after the other."""
    return _means([_ask(client, task, text) for text in task.texts])


def by_threads(client: OpenAI, task: Task) -> tuple[float, float]:
    """As many requests under way as there are threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return _means(list(pool.map(functools.partial(_ask, client, task), task.texts)))


def _ask(client: OpenAI, task: Task, text: str) -> tuple[int, int]:
    answer = client.chat.completions.create(model="bench", **task.body(text))
    assert answer.usage is not None
    return answer.usage.prompt_tokens, answer.usage.completion_tokens


def _means(counts: list[tuple[int, int]]) -> tuple[float, float]:
    prompt, output = (sum(column) / len(counts) for column in zip(*counts, strict=True))
    return prompt, output


WAYS: dict[str, tuple[str, Callable[[OpenAI, Task], tuple[float, float]]]] = {
    "map": ("lmnb", by_map),
    "loop on lmnb": ("lmnb", by_loop),
    "threads on lmnb": ("lmnb", by_threads),
    "loop": ("peer", by_loop),
    "threads": ("peer", by_threads),
}
FIGURES = [
    ("loop", "{} rows/s of `map`, against a loop on llama-server", 3.0),
    ("threads", "{} rows/s of `map`, against 16 threads on llama-server", 1.5),
    ("loop on lmnb", "{} rows/s of `map`, against a loop on lmnb", None),
    ("threads on lmnb", "{} rows/s of `map`, against 16 threads on lmnb", None),
]


# --- a round -------------------------------------------------------------------------


def measure(
    machine: servers.Machine, server: str, wanted: argparse.Namespace, index: int
) -> dict[str, Way]:
    """All ways on one server."""
    found = {}
    with _started(machine, server) as port:
        # As everybody would: certificates and all, which is the client's own cost.
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=240)
        for name, (where, run) in WAYS.items():
            if where != server or (wanted.ways and name not in wanted.ways):
                continue
            way = found[name] = Way()
            for workload in wanted.workloads:
                # Every way gets other words, or the cache would know them.
                dice = random.Random(f"{name} {workload} {index}")
                rows = min(wanted.table, _LOOP) if run is by_loop else wanted.table
                task = make_task(workload, rows, dice)
                first = make_task(workload, 1, dice)  # what happens once
                if run is by_loop:
                    first.system = task.system
                by_loop(client, first)
                began = time.perf_counter()
                way.tokens[workload] = run(client, task)
                way.rates[workload] = len(task.texts) / (time.perf_counter() - began)
                prompt, output = way.tokens[workload]
                print(
                    f"  {name}, {workload}: {way.rates[workload]:.2f} rows/s "
                    f"({prompt:.0f} tokens in, {output:.1f} out)",
                    flush=True,
                )
    return found


@contextmanager
def _started(machine: servers.Machine, server: str) -> Iterator[int]:
    if server == "peer":
        with servers.llama_server(machine, _DEFAULTS) as port:
            yield port
        return
    with tempfile.TemporaryDirectory(prefix="lmnb-bench-home-", ignore_cleanup_errors=True) as home:
        os.environ["LMNB_HOME"] = home
        with servers.lmnb_server(machine, _DEFAULTS, Path(home)) as port:
            yield port


def main() -> None:
    """Entry point."""
    wanted = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server is left behind
    logs = Path(tempfile.mkdtemp(prefix="lmnb-bench-"))
    machine = servers.Machine(
        wanted.llama_server, wanted.model, wanted.model, wanted.threads, logs,
        lmnb_options=tuple(wanted.lmnb_options),
    )  # fmt: skip
    own, peer = servers.builds(machine)
    if own != peer:
        print(f"The builds differ, so no ratio is given.\n  lmnb: {own}\n  peer: {peer}")
    lines = {
        (workload, against): table.Line(Figure(title.format(workload), "rows/s", at_least=bound))
        for workload in wanted.workloads
        for against, title, bound in FIGURES
    }
    for index in range(wanted.rounds):
        print(f"round {index + 1}: others use {serving.busy_cores():.2f} cores", flush=True)
        found: dict[str, Way] = {}
        for server in ("lmnb", "peer") if index % 2 == 0 else ("peer", "lmnb"):
            found |= measure(machine, server, wanted, index)
        for (workload, against), line in lines.items():
            ours, theirs = (found.get(name, Way()).rates.get(workload) for name in ("map", against))
            line.add(ours, theirs, comparable=own == peer)
    print("\n" + serving.description(machine, own) + "\n\n" + table.HEAD)
    print("\n".join(line.markdown() for line in lines.values()))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct, GGUF")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", type=int, default=200, metavar="ROWS")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", type=lambda text: text.split(","), metavar="A,B")
    parser.add_argument(
        "--workloads", type=lambda text: text.split(","), default=["label", "words"], metavar="A,B"
    )
    parser.add_argument(
        "--lmnb-options",
        type=shlex.split,
        default=[],
        metavar="'--parallel 16'",
        help="of `lmnb load`",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""lmnb against llama.cpp's own server: all figures of the README, in one run.

    python tests/bench/serving.py --llama-server PATH --model PATH --embedding-model PATH

The peer is `llama-server` built from vendor/llama.cpp of the source distribution of the
llama-cpp-python that is installed, with the same CMake options (see README). Both get the same model
file, threads, context and slots, and run one after the other, never at once. Rounds alternate which
goes first, and each starts the servers anew. `rows.py` holds the workloads. The figures are medians
over the rounds, with the lowest and the highest; a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib.metadata
import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
import rows
import servers
import table

_PATIENCE = 240.0
"""Seconds after which a workload has failed."""
_START = 7.0
"""Seconds to start both servers, about."""
_OVERHEAD = rows.Figure(
    "the engine's own time outside native calls, 8 streams", "µs/token",
    more_is_better=False, at_most=100, own=True,
)  # fmt: skip
_OVERHEAD_SECONDS = 8.0

Found = dict[str, list[float] | str]
"""By row: its values, or why there are none."""


@dataclass
class Round:
    """What a round found, by server."""

    load: float
    others: float
    """Cores that other processes kept busy before it began."""
    lmnb: Found = field(default_factory=dict)
    peer: Found = field(default_factory=dict)
    peer_variants: list[Found] = field(default_factory=list)


def main() -> None:
    """Entry point."""
    arguments = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server is left behind
    chosen = [row for row in rows.ROWS if not arguments.rows or row.name in arguments.rows]
    overhead = not arguments.rows or "overhead" in arguments.rows
    logs = arguments.logs or Path(tempfile.mkdtemp(prefix="lmnb-bench-"))
    logs.mkdir(parents=True, exist_ok=True)
    machine = servers.Machine(
        arguments.llama_server,
        arguments.model,
        arguments.embedding_model,
        arguments.threads,
        logs,
        tuple(arguments.peer_options),
    )
    minutes = estimate(chosen, overhead=overhead) * arguments.rounds / 60
    print(f"{arguments.rounds} rounds, about {minutes:.0f} minutes; logs in {logs}")
    own, peer = servers.builds(machine)
    if own != peer:
        print(f"The builds differ, so no ratio is given.\n  lmnb: {own}\n  peer: {peer}")
    done: list[Round] = []
    try:
        for index in range(arguments.rounds):
            began = time.monotonic()
            done.append(Round(load=os.getloadavg()[0], others=busy_cores()))
            fill(done[-1], machine, chosen, index, overhead=overhead)
            print(f"  a round in {time.monotonic() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("Interrupted: this is what there was until then.")
    lines = summary(chosen, done, comparable=own == peer, overhead=overhead)
    facts = description(machine, own)
    print("\n" + facts + "\n\n" + table.HEAD)
    print("\n".join(line.markdown() for line in lines))
    if arguments.json:
        report = {
            "facts": facts,
            "rounds": [asdict(one) for one in done],
            "lines": [asdict(line) | {"reached": line.reached} for line in lines],
        }
        arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False))


def parse() -> argparse.Namespace:
    """The command line."""
    names = [row.name for row in rows.ROWS] + ["overhead"]
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="rows: " + ", ".join(names),
    )
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct, GGUF")
    parser.add_argument(
        "--embedding-model", type=Path, required=True, help="all-MiniLM-L6-v2, GGUF"
    )
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), metavar="A,B", help="only these"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all values there, too")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="of the servers' logs")
    parser.add_argument(
        "--peer-options", type=shlex.split, default=[], metavar="'-fa off'", help="of llama-server"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.rows or ()) - set(names):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    return arguments


def estimate(chosen: list[rows.Row], *, overhead: bool) -> float:
    """Seconds of a round."""
    starts = sum(len(row.peer_options) for row in {row.deployment for row in chosen})
    return (
        sum(row.seconds for row in chosen)
        + starts * _START
        + (_OVERHEAD_SECONDS if overhead else 0)
    )


# --- a round -------------------------------------------------------------------------


def fill(
    found: Round, machine: servers.Machine, chosen: list[rows.Row], index: int, *, overhead: bool
) -> None:
    """Run every row on both servers. Even rounds begin with lmnb, odd ones with the peer."""
    print(
        f"round {index + 1}: load {found.load:.2f}, others use {found.others:.2f} cores", flush=True
    )
    if found.others > 0.15:
        print("  warning: the machine is busy, the figures will say little")
    for deployment, group in groupby(chosen, key=lambda row: row.deployment):
        mine = list(group)
        for server in ("lmnb", "peer") if index % 2 == 0 else ("peer", "lmnb"):
            if server == "lmnb":
                start = partial(servers.lmnb_server, machine, deployment)
                found.lmnb |= measure("lmnb", start, mine, index)
                continue
            variants = []
            for options in deployment.peer_options:
                start = partial(servers.llama_server, machine, deployment, *options)
                variants.append(measure("llama-server", start, mine, index))
            found.peer_variants += variants
            found.peer |= best(variants, mine)
    if overhead:
        found.lmnb["overhead"] = own_overhead(machine, index)
        print(f"  lmnb: overhead {shown(found.lmnb['overhead'])}", flush=True)


def measure(
    name: str, start: Callable[[], AbstractContextManager[int]], todo: list[rows.Row], seed: int
) -> Found:
    """Start a server, warm it up and run the rows; after a failure, start it again for the rest."""
    found: Found = {}
    waiting = list(todo)
    while waiting:
        try:
            with start() as port:
                asyncio.run(rows.warm_up(port, waiting[0].deployment, random.Random(seed)))
                while waiting:
                    row = waiting.pop(0)
                    found[row.name] = value = attempt(row, port, seed)
                    print(f"  {name}: {row.name} {shown(value)}", flush=True)
                    if isinstance(value, str) and not value.startswith("unsupported"):
                        break
        except Exception as error:  # noqa: BLE001  (one server's trouble must not lose the others' figures)
            print(f"  {name}: {error!r}", flush=True)
            found |= {row.name: f"failed: {error}" for row in waiting}
            break
    return found


def attempt(row: rows.Row, port: int, seed: int) -> list[float] | str:
    """A row's values, or why there are none. Both servers get the same requests."""

    async def within_time() -> list[float]:
        async with asyncio.timeout(_PATIENCE):
            return await row.run(port, random.Random(f"{row.name} {seed}"))

    try:
        return asyncio.run(within_time())
    except rows.Unsupported as error:
        return f"unsupported: {error}"
    except Exception as error:  # noqa: BLE001  (a row that fails must not lose the others)
        return f"failed: {error!r}"


def best(variants: list[Found], todo: list[rows.Row]) -> Found:
    """Of several sets of options, the best value of each figure."""
    found: Found = {}
    for row in todo:
        values = [value for one in variants if isinstance(value := one[row.name], list)]
        if not values:
            found[row.name] = variants[0][row.name]
            continue
        found[row.name] = [
            (max if figure.more_is_better else min)(column)
            for figure, column in zip(row.figures, zip(*values, strict=True), strict=True)
        ]
    return found


def own_overhead(machine: servers.Machine, seed: int) -> list[float] | str:
    """`overhead.py` in a process of its own."""
    command = [
        sys.executable, str(Path(__file__).with_name("overhead.py")), "--model", str(machine.model),
        "--threads", str(machine.threads), "--seed", str(seed),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=servers.environment(), check=False
    )
    if done.returncode:
        return f"failed: {done.stderr.strip()[-300:]}"
    return [json.loads(done.stdout.strip().splitlines()[-1])["microseconds_per_token"]]


def busy_cores() -> float:
    """How many cores are in use, over two seconds in which neither server runs."""
    before = psutil.cpu_times()
    began = time.monotonic()
    time.sleep(2)
    after = psutil.cpu_times()
    idle = after.idle - before.idle + getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0)
    seconds = time.monotonic() - began
    return float(max(0.0, (psutil.cpu_count() or 1) - idle / seconds))


def shown(value: list[float] | str) -> str:
    """A row's values for the log of the run."""
    return value if isinstance(value, str) else ", ".join(map(table.number, value))


# --- the end -------------------------------------------------------------------------


def summary(
    chosen: list[rows.Row], done: list[Round], *, comparable: bool, overhead: bool
) -> list[table.Line]:
    """A line for every figure."""
    wanted = [(row.name, at, figure) for row in chosen for at, figure in enumerate(row.figures)]
    if overhead:
        wanted.append(("overhead", 0, _OVERHEAD))
    lines = []
    for name, at, figure in wanted:
        line = table.Line(figure)
        for one in done:
            ours, theirs = one.lmnb.get(name), one.peer.get(name)
            line.add(
                ours[at] if isinstance(ours, list) else None,
                theirs[at] if isinstance(theirs, list) else None,
                comparable=comparable,
            )
            if isinstance(ours, str):
                line.our_note = ours.partition(":")[0]
            if isinstance(theirs, str):
                line.their_note = theirs.partition(":")[0]
        lines.append(line)
    return lines


def description(machine: servers.Machine, info: str) -> str:
    """When, what and where, for the README."""
    versions = {name: importlib.metadata.version(name) for name in ("lmnb", "llama-cpp-python")}
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    today = dt.datetime.now(tz=dt.UTC).date()
    return (
        f"{today}, {known}, {machine.model.name}, {machine.embedding_model.name}; {cpu()}, "
        f"{psutil.cpu_count()} cores, {machine.threads} threads, {platform.platform()}.\n"
        f"llama.cpp's CPU backend in both: {info}"
    )


def cpu() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

"""`series.lm.embed` against sentence-transformers: the same weights, texts and number of threads.

    python tests/bench/vectors.py --python PYTHON --sentence-transformers DIR --model GGUF

`PYTHON` has sentence-transformers (and PyTorch) installed, `DIR` is the model as it reads it, and the
GGUF is that one, converted. 10,000 distinct texts of 6 to 20 words. Both have the model loaded and have
embedded some other texts before; both make vectors of length 1 with their own defaults, sorted and
batched as each sees fit. lmnb's time is the whole call: texts over HTTP, vectors back, no cache.
Rounds alternate who goes first. A ratio is the median of the rounds' own ratios; the cosine is the
worst of all texts. Memory is that of lmnb's worker after a quarter of a round, and after all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).parent))
import servers
import serving
import texts

from lmnb.attaching import attach

_DEPLOYMENT = servers.Deployment("", slots=0, context=0, embedding=True)
_PEER = """
import json, sys, time
import numpy as np, torch
from sentence_transformers import SentenceTransformer
path, threads, source, out = sys.argv[1:]
torch.set_num_threads(int(threads))
model = SentenceTransformer(path, device="cpu")
texts = json.load(open(source))
model.encode(texts["warm"], normalize_embeddings=True)
began = time.perf_counter()
vectors = model.encode(texts["all"], normalize_embeddings=True, show_progress_bar=False)
seconds = time.perf_counter() - began
np.save(out, vectors)
print(seconds)
"""


def notes(count: int, dice: random.Random) -> list[str]:
    """Distinct short texts."""
    return [f"Note {n}:" + texts.words(dice.randint(6, 20), dice) for n in range(count)]


def by_lmnb(given: list[str]) -> tuple[float, Any, list[int]]:
    """Seconds, vectors, and the worker's memory on the way."""
    column = pd.Series(given)
    worker = _worker()
    memory = []
    began = time.perf_counter()
    parts = []
    for quarter in np.array_split(np.arange(len(column)), 4):
        some = column.iloc[quarter]
        parts.append(some.lm.embed(model="bench", cache=False, progress=False).lm.matrix())
        memory.append(worker.memory_info().rss)
    return time.perf_counter() - began, np.concatenate(parts), memory


def _worker() -> psutil.Process:
    server = psutil.Process(attach().status()["pid"])
    return next(
        one for one in server.children(recursive=True) if "lmnb.engine.worker" in one.cmdline()
    )


def by_peer(wanted: argparse.Namespace, folder: Path) -> tuple[float, Any]:
    """Seconds and vectors of sentence-transformers, in a process of its own."""
    command = [
        str(wanted.python), "-c", _PEER, str(wanted.sentence_transformers),
        str(wanted.threads), str(folder / "texts.json"), str(folder / "vectors.npy"),
    ]  # fmt: skip
    env = servers.environment() | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1]), np.load(folder / "vectors.npy")


def main() -> None:
    """Entry point."""
    wanted = parse()
    machine = servers.Machine(
        Path(), wanted.model, wanted.model, wanted.threads, Path(tempfile.mkdtemp())
    )
    ratios, ours, theirs, worst = [], [], [], 1.0
    for index in range(wanted.rounds):
        print(f"round {index + 1}: others use {serving.busy_cores():.2f} cores", flush=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            dice = random.Random(index)
            given, warm = notes(wanted.texts, dice), notes(64, dice)
            (folder / "texts.json").write_text(json.dumps({"all": given, "warm": warm}))
            peer = by_peer(wanted, folder) if index % 2 else None
            os.environ["LMNB_HOME"] = str(folder / "home")
            with servers.lmnb_server(machine, _DEPLOYMENT, folder / "home"):
                pd.Series(warm).lm.embed(model="bench", cache=False, progress=False)
                seconds, vectors, memory = by_lmnb(given)
            peer = peer or by_peer(wanted, folder)
        cosines = np.sum(vectors * peer[1], axis=1)
        worst = min(worst, float(cosines.min()))
        ours.append(len(given) / seconds)
        theirs.append(len(given) / peer[0])
        ratios.append(ours[-1] / theirs[-1])
        quarter, end = memory[0] / 1e6, memory[-1] / 1e6
        print(
            f"  lmnb {ours[-1]:.0f} texts/s, sentence-transformers {theirs[-1]:.0f}, ratio "
            f"{ratios[-1]:.2f}, cosine at least {cosines.min():.5f} (mean {cosines.mean():.6f}), "
            f"worker {quarter:.0f} MB after a quarter, {end:.0f} MB after all",
            flush=True,
        )
    print(
        f"{statistics.median(ours):.0f} against {statistics.median(theirs):.0f} texts/s, ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"cosine at least {worst:.5f}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--sentence-transformers", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", type=Path, required=True, help="the same model, GGUF")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The workloads, one function each, pinned: lengths, sampling, state of the cache, both servers' options.

Unless a row says otherwise: streamed completions of SmolLM2-135M-Instruct; prompts of random words,
so that none shares a prefix with another and no cache helps; end-of-text forbidden by a logit bias,
so that every answer has the length asked for; temperature 0.8, top-k 40, top-p 0.95, min-p 0.05 (both
servers' defaults, sent all the same); a seed per request. Everything else is at the servers' defaults:
lmnb's of `lmnb load`, llama-server's with its prompt cache of 8 GiB, batches of 2,048 and 512. Tokens
per second count the whole time, prompts included. Threads: see `servers.Machine`.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import load
import texts
from servers import Deployment

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

MANY = Deployment("16 slots of 2,048 tokens", slots=16, context=2048)
PAIR = Deployment("2 slots of 8,192 tokens", slots=2, context=8192)
SINGLE = Deployment("1 slot of 8,192 tokens", slots=1, context=8192)
EMBEDDING = Deployment(
    "MiniLM",
    slots=0,
    context=0,
    embedding=True,
    peer_options=(
        ("--embedding", "--pooling", "mean"),
        (
            "--embedding",
            "--pooling",
            "mean",
            "-np",
            "16",
            "-c",
            "8192",
            "-b",
            "2048",
            "-ub",
            "2048",
        ),
    ),
)


class Unsupported(Exception):
    """The server does not offer what the row needs."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    `at_least` or `at_most` is the target: of the ratio lmnb / llama-server, or of lmnb's own value
    where `own` is set. Neither: for information.
    """

    title: str
    unit: str
    more_is_better: bool = True
    at_least: float | None = None
    at_most: float | None = None
    own: bool = False


Run = Callable[[int, random.Random], Awaitable[list[float]]]


@dataclass(frozen=True)
class Row:
    """A workload: `run(port, dice)` gives a value for each of `figures`.

    `seconds`: about what it takes on two cores, both servers together, for the estimate.
    """

    name: str
    deployment: Deployment
    seconds: float
    figures: tuple[Figure, ...]
    run: Run


ROWS: list[Row] = []


def row(
    name: str, deployment: Deployment, seconds: float, *figures: Figure
) -> Callable[[Run], Run]:
    """Register a workload."""

    def register(run: Run) -> Run:
        ROWS.append(Row(name, deployment, seconds, figures, run))
        return run

    return register


async def warm_up(port: int, deployment: Deployment, dice: random.Random) -> None:
    """One small request, so that no row pays for what happens once."""
    if deployment.embedding:
        body = {"model": "bench", "input": [texts.words(8, dice)]}
        await load.post(port, "/v1/embeddings", body)
    else:
        await load.stream(port, COMPLETIONS, texts.completion(32, 16, dice))


def expect(answers: list[load.Answer], prompt: int | None, output: int) -> None:
    """Stop if an answer has other lengths than the row is about."""
    for answer in answers:
        usage = answer.usage()
        found = usage["prompt_tokens"] if prompt else None, usage["completion_tokens"]
        if found != (prompt, output):
            raise RuntimeError(f"{found} tokens in and out instead of {(prompt, output)}")


async def streams(port: int, dice: random.Random, count: int) -> tuple[float, list[load.Answer]]:
    """Tokens per second of `count` answers at once, 128 tokens in and 128 out."""
    bodies = [texts.completion(128, 128, dice) for _ in range(count)]
    seconds, answers = await load.together(port, COMPLETIONS, bodies)
    expect(answers, 128, 128)
    return count * 128 / seconds, answers


async def alone(port: int, dice: random.Random) -> list[float]:
    """Three answers one after the other: tokens/s, and tokens/s after the first token; medians."""
    rates, after = [], []
    for _ in range(3):
        rate, [answer] = await streams(port, dice, 1)
        rates.append(rate)
        after.append(127 / (answer.ended - answer.sent - answer.first_token()))
    return [statistics.median(rates), statistics.median(after)]


@row(
    "one", MANY, 8,
    Figure("one stream", "tokens/s", at_least=0.98),
    Figure("the same, after the first token", "tokens/s"),
)  # fmt: skip
async def one(port: int, dice: random.Random) -> list[float]:
    """One stream at a time: 128 tokens in, 128 out; the median of three."""
    return await alone(port, dice)


@row("four", MANY, 6, Figure("4 streams, distinct prompts", "tokens/s"))
async def four(port: int, dice: random.Random) -> list[float]:
    """Four streams at once: 128 tokens in, 128 out."""
    return [(await streams(port, dice, 4))[0]]


@row("sixteen", MANY, 25, Figure("16 streams, distinct prompts", "tokens/s", at_least=1.05))
async def sixteen(port: int, dice: random.Random) -> list[float]:
    """Sixteen streams at once: 128 tokens in, 128 out."""
    return [(await streams(port, dice, 16))[0]]


@row(
    "shared", MANY, 35,
    Figure("16 streams sharing a 1,000-token system prompt", "tokens/s", at_least=2.0),
    Figure("the same, 95th percentile time to first token", "s", more_is_better=False, at_most=0.3),
)  # fmt: skip
async def shared(port: int, dice: random.Random) -> list[float]:
    """Sixteen chats at once: the same 1,000-token system message, which neither server has seen
    before, 24 tokens of the user's own, 64 out. The percentile is interpolated between the slowest
    two of the sixteen.
    """
    system = {"role": "system", "content": texts.words(1000, dice)}
    bodies = [
        texts.chat([system, {"role": "user", "content": texts.words(24, dice)}], 64, dice)
        for _ in range(16)
    ]
    seconds, answers = await load.together(port, CHAT, bodies)
    expect(answers, None, 64)
    return [16 * 64 / seconds, percentile([answer.first_token() for answer in answers], 95)]


def percentile(values: list[float], percent: int) -> float:
    """Interpolated linearly between the two nearest values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@row(
    "turn5", MANY, 20,
    Figure("turn 5 of a chat, time to first token", "s", more_is_better=False, at_most=1.0),
)  # fmt: skip
async def turn5(port: int, dice: random.Random) -> list[float]:
    """Chats of five turns, one after the other: a system message of 200 tokens, then 60 tokens of
    the user and 64 of the server's own answer each turn, sent back as it came. The time to the first
    token of turn 5, median of three chats. The cache is what the row is about: cold at turn 1.
    """
    found = []
    for _ in range(3):
        messages = [{"role": "system", "content": texts.words(200, dice)}]
        for _ in range(5):
            messages.append({"role": "user", "content": texts.words(60, dice)})
            answer = await load.stream(port, CHAT, texts.chat(messages, 64, dice))
            messages.append({"role": "assistant", "content": answer.text()})
        expect([answer], None, 64)
        found.append(answer.first_token())
    return [statistics.median(found)]


@row(
    "schema", MANY, 20,
    Figure("under a JSON schema, rate against its own without", "×", at_least=1.0, own=True),
    Figure("under a JSON schema", "tokens/s"),
)  # fmt: skip
async def schema(port: int, dice: random.Random) -> list[float]:
    """Six records under a JSON schema with patterns, enumerations and bounds (`texts.SCHEMA`) in one
    stream, against an answer of 320 tokens to the same prompt without it. Tokens per second after
    the first token; tokens the schema forces count as the others do. The schema has been used before.
    """
    system = "You write JSON about invented employees." + texts.words(40, dice)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Six, please."}]
    form = {
        "type": "json_schema",
        "json_schema": {"name": "e", "strict": True, "schema": texts.SCHEMA},
    }
    rates = []
    try:
        for _ in range(2):  # the first compiles the schema
            body = texts.chat(messages, 1200, dice, endless=False) | {"response_format": form}
            answer = await load.stream(port, CHAT, body)
            if len(json.loads(answer.text())["employees"]) != 6:
                raise RuntimeError(f"not what the schema asks for: {answer.text()!r}")
            rates.append(rate_after_first(answer))
    except load.Refused as error:
        if error.status == 400:
            raise Unsupported(str(error)) from None
        raise
    free = await load.stream(port, CHAT, texts.chat(messages, 320, dice))
    return [rates[-1] / rate_after_first(free), rates[-1]]


def rate_after_first(answer: load.Answer) -> float:
    """Tokens per second from the first text to the end."""
    seconds = answer.ended - answer.sent - answer.first_token()
    return float((answer.usage()["completion_tokens"] - 1) / seconds)


@row(
    "busy", MANY, 18,
    Figure("one stream while another process keeps a core busy", "tokens/s", at_least=1.5),
    Figure("the same, after the first token", "tokens/s"),
)  # fmt: skip
async def busy(port: int, dice: random.Random) -> list[float]:
    """As `one`, while a Python process spins; it began a second before."""
    with neighbour():
        await asyncio.sleep(1)
        return await alone(port, dice)


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that never waits."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@row(
    "gap", PAIR, 30,
    Figure(
        "longest gap in a running answer while an 8,000-token prompt arrives", "s",
        more_is_better=False, at_most=0.2,
    ),
    Figure("the same, time to first token of that prompt", "s", more_is_better=False),
)  # fmt: skip
async def gap(port: int, dice: random.Random) -> list[float]:
    """An answer to a prompt of 32 tokens runs, 8,000 at most; after about 32 of its tokens a prompt of 8,000
    tokens arrives at the other slot, 16 out. The longest time between two pieces of the running
    answer, from the arrival of the prompt to its first token.
    """
    watched = load.Answer(0.0)
    running = asyncio.create_task(
        load.stream(port, COMPLETIONS, texts.completion(32, 8000, dice), watched)
    )
    try:
        while len(watched.marks) < 32 and not running.done():
            await asyncio.sleep(0.01)
        arriving = await load.stream(port, COMPLETIONS, texts.completion(8000, 16, dice))
        expect([arriving], 8000, 16)
        if running.done():
            raise RuntimeError(f"the running answer has ended: {running.exception()}")
    finally:
        running.cancel()
        await asyncio.wait([running])
    begin, first = arriving.sent, arriving.first_token()
    times = [time for time, _ in watched.texts()]
    return [longest_gap(times, begin, begin + first), first]


def longest_gap(times: list[float], begin: float, end: float) -> float:
    """The longest of the gaps between neighbouring times that touch the span from begin to end."""
    return max(
        later - earlier for earlier, later in pairwise(times) if later > begin and earlier < end
    )


@row(
    "leave", SINGLE, 25,
    Figure(
        "a client leaves during an 8,000-token prefill, until the engine is free", "s",
        more_is_better=False, at_most=0.150, own=True,
    ),
)  # fmt: skip
async def leave(port: int, dice: random.Random) -> list[float]:
    """A prompt of 8,000 tokens is sent, and its client leaves 0.5, 1.0 and 1.5 seconds later. Right then a
    prompt of 2 tokens is sent: the time to its first token, nothing subtracted. The mean of the three.
    """
    found = []
    for patience in (0.5, 1.0, 1.5):
        watched = load.Answer(0.0)
        leaving = asyncio.create_task(
            load.stream(port, COMPLETIONS, texts.completion(8000, 16, dice), watched)
        )
        await asyncio.sleep(patience)
        if watched.texts() or leaving.done():
            raise RuntimeError("the prefill was over before the client left")
        left = perf_counter()
        leaving.cancel()
        await asyncio.wait([leaving])
        tiny = await load.stream(port, COMPLETIONS, texts.completion(2, 1, dice))
        found.append(tiny.texts()[0][0] - left)
    return [statistics.mean(found)]


@row("embed", EMBEDDING, 12, Figure("400 short texts embedded (MiniLM)", "texts/s", at_least=1.5))
async def embed(port: int, dice: random.Random) -> list[float]:
    """400 texts of 8 to 40 words (24 on average), all distinct, in one call of /v1/embeddings.

    lmnb with its defaults, so that it may hold weights of F16 as BF16; llama-server with `--embedding
    --pooling mean`, once with its other defaults and once with 16 slots and batches of 2,048: the
    better of the two counts.
    """
    inputs = [texts.words(dice.randint(8, 40), dice).strip() for _ in range(400)]
    answer = await load.post(port, "/v1/embeddings", {"model": "bench", "input": inputs})
    seconds = answer.ended - answer.sent
    vectors = json.loads(answer.body())["data"]
    if len(vectors) != 400 or len(vectors[0]["embedding"]) != 384:
        raise RuntimeError(f"{len(vectors)} vectors instead of 400 of 384 dimensions")
    return [400 / seconds]

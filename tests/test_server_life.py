"""Eight clients do whatever they like with the models of a server; in the end nothing is left.

`LMNB_TEST_SEED` chooses another course of events; a failure names the one it came from.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psutil
from made_models.scripted import MARKERS
from server_home import ServerHome, wait_for
from tellers import MODEL, STORIES, WAYS, write_model
from tiny_bert import write_model as write_bert

from lmnb.client import Client
from lmnb.models.convert import convert_bert

SEED = os.environ.get("LMNB_TEST_SEED", "1")
CLIENTS = 8
OPERATIONS = 1000
OTHER, EMBEDDER = "maker/other", "maker/bert"
MEMORY = 32 << 20
"""Bytes by which the server may have grown: pools and caches of code that had not run before."""
EXPECTED = re.compile(
    r"The model was unloaded|The load of \S+ was cancelled"  # somebody else has unloaded it
    r"|process was killed|has crashed \d times"  # somebody else has killed it
    r"|No model \S+ is loaded|is loaded more than once"  # it is gone already, or ambiguous
    r"|An instance \S+ is already loaded"
)
"""What may go wrong for one client because of what another does. Everything else is a fault."""


class Failure(Exception):
    """What the server has told a client went wrong."""


def write_models(home: Path) -> None:
    for name in (MODEL, OTHER):
        folder = home / "models" / name
        folder.mkdir(parents=True)
        write_model(folder)
    (home / "models" / EMBEDDER).mkdir(parents=True)
    source = write_bert(home / "source")
    convert_bert(source, home / "models" / EMBEDDER / "b-F32.gguf", name="b", file_type="F32")


class Crowd:
    """The clients. `done` counts what they have done and `failed` what was answered by an error."""

    def __init__(self, home: ServerHome, http: httpx2.AsyncClient) -> None:
        self._home = home
        self._http = http
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._left = OPERATIONS

    async def act(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        draw = random.Random(f"{SEED} {number}")
        kinds = [operation.name for operation in CHOICES]
        weights = [operation.weight for operation in CHOICES]
        while self._left:
            self._left -= 1
            kind = draw.choices(kinds, weights)[0]
            self.done[kind] += 1
            try:
                async with asyncio.timeout(90):
                    await getattr(self, kind)(draw)
            except Failure as failure:
                if not EXPECTED.search(str(failure)):
                    raise
                self.failed[kind] += 1

    # --- using models ---------------------------------------------------------------

    async def stream(self, draw: random.Random, most: int = 10**9) -> None:
        """An answer as a stream, of which at most so many pieces are read."""
        marker, way = draw.choice(MARKERS), draw.choice(WAYS)
        body = {"model": _language_model(draw), "stream": True, "temperature": 0, **_ttl(draw)}
        text = ""
        async with self._events(way.path, body | way.body(f"Once {marker}")) as events:
            async for event in events:
                text += way.text(event)
                most -= 1
                if not most:
                    break
        story = STORIES[marker]
        assert text == story or (not most and story.startswith(text)), (text, story)

    async def cancel(self, draw: random.Random) -> None:
        """The client leaves in mid-answer."""
        await self.stream(draw, draw.randrange(1, 6))

    async def leave_early(self, draw: random.Random) -> None:
        """The client leaves at any moment: while the model loads, is waited for, or reads."""
        try:
            async with asyncio.timeout(draw.random() * 0.4):
                await self.stream(draw)
        except TimeoutError:
            pass

    async def whole(self, draw: random.Random) -> None:
        marker = draw.choice(MARKERS)
        messages = [{"role": "user", "content": f"Once {marker}"}]
        body = {"model": _language_model(draw), "messages": messages, "temperature": 0}
        answer = await self._post("/v1/chat/completions", body | _ttl(draw))
        assert answer["choices"][0]["message"]["content"] == STORIES[marker]

    async def embed(self, draw: random.Random) -> None:
        texts = ["the cat sat"] * draw.randrange(1, 5)
        body = {"model": EMBEDDER, "input": texts, **_ttl(draw)}
        answer = await self._post("/v1/embeddings", body)
        assert len(answer["data"]) == len(texts)

    # --- the life of models -----------------------------------------------------------

    async def load(self, draw: random.Random) -> None:
        """As people do (`lmnb load`), who may leave, or as programs, through LM Studio's API."""
        body: dict[str, Any] = {
            "model": draw.choice([MODEL, MODEL, OTHER, EMBEDDER]),
            "context_length": draw.choice([None, 512, 1024]),
            "identifier": draw.choice([None, None, "mine", "yours"]),
            **_ttl(draw),
        }
        if draw.random() < 0.4:
            answer = await self._post("/api/v1/models/load", body)
            assert answer["status"] == "loaded"
            return
        most = draw.choice([1, 2, 10**9])
        async with self._events("/lmnb/load", body) as events:
            async for _ in events:
                most -= 1
                if not most:
                    return

    async def unload(self, draw: random.Random) -> None:
        found = await self._get("/lmnb/ps")
        there = [row["id"] for what in ("loaded", "loading", "unloading") for row in found[what]]
        if len(there) > 4:
            await self._post("/lmnb/unload", {"all": True, "wait": True})
            return
        name = draw.choice([*there, MODEL, "no-such-model"])
        path = draw.choice(["/lmnb/unload", "/api/v1/models/unload"])
        await self._post(path, {"instance_id": name, "wait": draw.random() < 0.5})

    async def kill(self, draw: random.Random) -> None:
        if workers := self._home.workers():
            with suppress(ProcessLookupError):
                os.kill(draw.choice(workers).pid, signal.SIGKILL)

    async def change(self, draw: random.Random) -> None:
        name, value = draw.choice(
            [("auto_evict", True), ("auto_evict", False), ("jit_ttl", 0), ("jit_ttl", 0.5)]
        )
        response = await self._http.patch("/lmnb/settings", json={"name": name, "value": value})
        assert response.json()["value"] == value

    # --- looking -----------------------------------------------------------------------

    async def list_models(self, draw: random.Random) -> None:
        path = draw.choice(["/v1/models", "/api/v0/models", "/api/v1/models", "/metrics"])
        response = await self._http.get(path)
        assert response.status_code == 200
        assert MODEL in response.text or path == "/metrics"

    async def ps(self, _: random.Random) -> None:
        found = await self._get("/lmnb/ps")
        rows = found["loaded"]
        assert len({row["id"] for row in [*rows, *found["loading"]]}) == len(
            [*rows, *found["loading"]]
        )
        for row in rows:
            assert row["state"] == ("busy" if row["active"] else "idle")
            assert (row["ttl"] is None) == (row["ttl_left"] is None)
            assert row["ttl"] is None or 0 <= row["ttl_left"] <= row["ttl"]
        assert all(row["active"] >= 0 for row in found["unloading"])

    # --- inside ------------------------------------------------------------------------

    async def _get(self, path: str) -> Any:
        response = await self._http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = await self._http.post(path, json=body)
        if response.status_code != 200:
            raise Failure(response.text)
        return response.json()

    @asynccontextmanager
    async def _events(self, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[Any]]:
        async with self._http.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                raise Failure((await response.aread()).decode())
            yield self._read(response)

    async def _read(self, response: httpx2.Response) -> AsyncIterator[Any]:
        name = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: {"):
                event = json.loads(line[6:])
                if name in {"error", "response.failed"} or event.get("error"):
                    raise Failure(line)
                yield event


class Operation(NamedTuple):
    name: str
    weight: float


CHOICES = (
    Operation("stream", 15),
    Operation("whole", 15),
    Operation("cancel", 13),
    Operation("leave_early", 5),
    Operation("embed", 15),
    Operation("list_models", 12),
    Operation("ps", 15),
    Operation("change", 3),
    Operation("load", 2.5),
    Operation("unload", 3),
    Operation("kill", 0.7),
)


def _language_model(draw: random.Random) -> str:
    # Seldom the other one: with auto-evict each change is a load.
    return OTHER if draw.random() < 0.03 else MODEL


def _ttl(draw: random.Random) -> dict[str, float]:
    ttl = draw.choice([None, None, None, 0.2, 3, 3600])
    return {} if ttl is None else {"ttl": ttl}


def crowd(home: ServerHome, client: Client) -> Crowd:
    async def run() -> Crowd:
        transport = httpx2.AsyncHTTPTransport(uds=client.socket)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://local", timeout=None
        ) as http:
            found = Crowd(home, http)
            await found.act()
            return found

    return asyncio.run(run())


def memory_of_models(client: Client) -> list[str]:
    """The samples of `/metrics` about what loaded models take."""
    text = client.http.get("/metrics").text
    return re.findall(r"^lmnb_model_memory_bytes\{.*", text, re.MULTILINE)


def test_a_thousand_operations_leave_nothing_behind(fresh_home: ServerHome) -> None:
    write_models(fresh_home.path)
    client = fresh_home.attach()
    server = psutil.Process(fresh_home.pid)
    # What is started once and kept: threads, the renderer of templates, code on first use.
    for way in WAYS:
        body = {"model": MODEL, "stream": True, **way.body(MARKERS[0])}
        assert client.http.post(way.path, json=body, timeout=60).status_code == 200
    client.http.post("/v1/embeddings", json={"model": EMBEDDER, "input": "cat"}, timeout=60)
    client.unload(all=True)
    wait_for(lambda: not fresh_home.workers(), "the first workers to end")
    renderer = {one.pid for one in fresh_home.processes()}
    files, memory = server.num_fds(), server.memory_info().rss

    began = time.monotonic()
    found = crowd(fresh_home, client)
    seconds = time.monotonic() - began
    told = f"seed {SEED}, {seconds:.1f} s: {dict(found.done)}, failed: {dict(found.failed)}"
    print(told)  # noqa: T201
    assert sum(found.done.values()) == OPERATIONS, told
    assert set(found.done) == {one.name for one in CHOICES}, told
    assert sum(found.failed.values()) < OPERATIONS / 8, told

    wait_for(lambda: not any(row["active"] for row in client.ps()), "the requests to end")
    client.unload(all=True)
    assert client.ps() == [], told
    pending = client.pending()
    assert (pending["loading"], pending["unloading"]) == ([], []), told
    assert memory_of_models(client) == [], told
    assert {one.pid for one in fresh_home.processes()} == renderer, told
    wait_for(lambda: server.num_fds() <= files + 1, f"the files to be closed ({told})")
    assert server.memory_info().rss - memory < MEMORY, told
    log = fresh_home.log()
    errors = [line for line in log.splitlines() if "ERROR" in line]
    # Workers were killed on purpose, and each of them is told.
    assert [line for line in errors if "Requests that were computed" not in line] == [], told
    assert "Traceback" not in log, told

    # And it goes on.
    *_, done = client.load(MODEL)
    assert done["active"] == 0
    body = {"model": MODEL, "prompt": MARKERS[0], "temperature": 0}
    answer = client.http.post("/v1/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["text"] == STORIES[MARKERS[0]]

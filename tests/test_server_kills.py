"""The server is killed (kill -9) at random moments while it stores, downloads, loads and answers.

After each, a new one has everything that was acknowledged, whole, and nothing of the old one runs.
`LMNB_TEST_SEED` chooses other moments.
"""

from __future__ import annotations

import gc
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from batch_requests import COMPLETIONS, jsonl, line
from fake_hub import FakeHub, Repository
from gguf_bytes import small_model
from made_models.scripted import MARKERS
from server_home import ServerHome, wait_for
from tellers import MODEL, STORIES, write_model

SEED = os.environ.get("LMNB_TEST_SEED", "1")
KILLS = 4
WRITERS = 4
LINES = 6
FETCHED = "maker/Nice-Model-GGUF"
FILE = small_model(1, kilobytes=3000, file_type=15)


@dataclass
class Kept:
    """What servers have acknowledged, by its id or name, and what it has to be."""

    responses: dict[str, str] = field(default_factory=dict)
    background: dict[str, str] = field(default_factory=dict)
    chats: dict[str, str] = field(default_factory=dict)
    conversations: dict[str, list[str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    downloads: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    setting: float | None = None
    asked: set[float] = field(default_factory=set)
    """Values of the setting that may be in force, because their answer was cut off."""

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        kinds = ("responses", "background", "chats", "tokens", "downloads", "batches")
        items = sum(len(texts) // 3 for texts in self.conversations.copy().values())
        return {kind: len(getattr(self, kind)) for kind in kinds} | {"items": items}


class Writer(threading.Thread):
    """Stores things, one after another, until the server is gone."""

    def __init__(self, name: str, socket: str, kept: Kept) -> None:
        super().__init__(name=name)
        self._draw = random.Random(f"{SEED} {name}")
        self._socket = socket
        self._kept = kept
        self.fault: Exception | None = None

    def run(self) -> None:
        transport = httpx2.HTTPTransport(uds=self._socket)
        with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as self._http:
            try:
                while True:
                    for operation in self._draw.sample(OPERATIONS, len(OPERATIONS)):
                        operation(self)
            except httpx2.TransportError:
                pass  # killed
            except Exception as fault:  # noqa: BLE001 - told by the test
                self.fault = fault

    # --- what is stored ---------------------------------------------------------------

    def respond(self) -> None:
        marker = self._draw.choice(MARKERS)
        answer = self._post("/v1/responses", {"model": MODEL, "input": marker, "temperature": 0})
        self._kept.responses[answer["id"]] = STORIES[marker]

    def respond_in_background(self) -> None:
        marker = self._draw.choice(MARKERS)
        body = {"model": MODEL, "input": marker, "temperature": 0, "background": True}
        self._kept.background[self._post("/v1/responses", body)["id"]] = STORIES[marker]

    def chat(self) -> None:
        marker = self._draw.choice(MARKERS)
        answer = self._post("/api/v1/chat", {"model": MODEL, "input": marker, "temperature": 0})
        self._kept.chats[answer["response_id"]] = marker

    def converse(self) -> None:
        """Three items at a time, which come together or not at all."""
        mine = [name for name in self._kept.conversations if self.name in name]
        if not mine or self._draw.random() < 0.2:
            id_ = self._post("/v1/conversations", {})["id"]
            mine = [f"{self.name} {id_}"]
            self._kept.conversations[mine[0]] = []
        name = self._draw.choice(mine)
        texts = [f"{self._draw.random()}" for _ in range(3)]
        items = [{"type": "message", "role": "user", "content": text} for text in texts]
        self._post(f"/v1/conversations/{name.split()[1]}/items", {"items": items})
        self._kept.conversations[name] += texts

    def make_token(self) -> None:
        name = f"{self.name}-{self._draw.random()}"
        self._kept.tokens[name] = self._post("/lmnb/tokens", {"name": name})["token"]

    def begin_batch(self) -> None:
        requests = [
            line(f"{n}", {"model": MODEL, "prompt": MARKERS[n], "temperature": 0}, COMPLETIONS)
            for n in range(LINES)
        ]
        files = {"file": ("requests.jsonl", jsonl(requests))}
        response = self._http.post("/v1/files", data={"purpose": "batch"}, files=files)
        file = _checked(response)["id"]
        body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h"}
        self._kept.batches.add(self._post("/v1/batches", body)["id"])

    # --- what goes on meanwhile ---------------------------------------------------------

    def download(self) -> None:
        job = self._post("/api/v1/models/download", {"model": FETCHED})
        if "job_id" in job:
            self._kept.downloads.add(job["job_id"])

    def load(self) -> None:
        body = {"model": MODEL, "context_length": self._draw.choice([512, 1024])}
        instance = self._post("/api/v1/models/load", body)["instance_id"]
        self._http.post("/lmnb/unload", json={"instance_id": instance, "wait": True})

    def _post(self, path: str, body: Any) -> Any:
        return _checked(self._http.post(path, json=body))


class Setter(Writer):
    """Changes a setting over and over; alone, so that it is known what it has to be."""

    def run(self) -> None:
        transport = httpx2.HTTPTransport(uds=self._socket)
        with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
            try:
                while True:
                    value = float(self._draw.randrange(1, 10**6))
                    self._kept.asked.add(value)
                    _checked(http.patch("/lmnb/settings", json={"name": "jit_ttl", "value": value}))
                    self._kept.setting, self._kept.asked = value, set()
                    time.sleep(0.01)
            except httpx2.TransportError:
                pass
            except Exception as fault:  # noqa: BLE001
                self.fault = fault


OPERATIONS: tuple[Callable[[Writer], None], ...] = (
    Writer.respond,
    Writer.respond_in_background,
    Writer.chat,
    Writer.converse,
    Writer.converse,
    Writer.make_token,
    Writer.begin_batch,
    Writer.download,
    Writer.load,
)


def _checked(response: httpx2.Response) -> Any:
    # A response that another writer's unload has cut off is none that anybody acknowledged.
    assert response.status_code == 200, (response.request.url, response.text)
    return response.json()


# --- looking afterwards -------------------------------------------------------------------


def check(home: ServerHome, kept: Kept) -> None:
    """Everything that was acknowledged is there, on a server that has just started."""
    http = home.attach().http

    def get(path: str) -> Any:
        return _checked(http.get(path, timeout=60))

    for id_, story in kept.responses.items():
        answer = get(f"/v1/responses/{id_}")
        assert answer["status"] == "completed"
        assert answer["output"][0]["content"][0]["text"] == story
        assert len(get(f"/v1/responses/{id_}/input_items")["data"]) == 1
    for id_, story in kept.background.items():
        answer = get(f"/v1/responses/{id_}")
        assert answer["status"] in {"completed", "failed"}
        if answer["status"] == "completed":
            assert answer["output"][0]["content"][0]["text"] == story
    for name, texts in kept.conversations.items():
        there = list(_items(get, name.split()[1]))
        assert there[: len(texts)] == texts
        assert len(there) - len(texts) in {0, 3}, "an addition that was cut off is there by half"
        kept.conversations[name] = there
    tokens = {row["name"] for row in get("/lmnb/tokens")["tokens"]}
    assert tokens >= set(kept.tokens)
    [value] = [
        row["value"] for row in get("/lmnb/settings")["settings"] if row["name"] == "jit_ttl"
    ]
    assert value in {kept.setting, *kept.asked}
    kept.setting, kept.asked = value, set()
    for job in kept.downloads:
        status = get(f"/api/v1/models/download/status/{job}")["status"]
        assert status in {"downloading", "completed"}
    for batch in kept.batches:
        assert get(f"/v1/batches/{batch}")["status"] != "failed"
    if kept.chats:
        id_, marker = list(kept.chats.items())[-1]
        body = {"model": MODEL, "input": "And?", "previous_response_id": id_, "temperature": 0}
        answer = _checked(http.post("/api/v1/chat", json=body, timeout=60))
        assert answer["output"][0]["content"] == STORIES[marker], "it remembers the first question"


def _items(get: Callable[[str], Any], conversation: str) -> Iterator[str]:
    after = ""
    while True:
        page = get(f"/v1/conversations/{conversation}/items?order=asc&limit=100{after}")
        for item in page["data"]:
            yield item["content"][0]["text"]
        if not page["has_more"]:
            return
        after = f"&after={page['last_id']}"


def check_files(home: Path) -> None:
    """What a killed server has left on the disk: a sound database, models that are whole."""
    with closing(sqlite3.connect(home / "lmnb.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        lost = "SELECT id FROM responses WHERE id NOT IN (SELECT id FROM response_details)"
        whole = f"{lost} AND body IS NOT NULL AND id IN (SELECT response FROM response_items)"
        assert database.execute(whole).fetchall() == []
    for path in (home / "models").rglob("Nice-Model-Q4_K_M.gguf"):
        if ".staging" not in path.parts:
            assert path.read_bytes() == FILE


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")
def test_nothing_that_was_acknowledged_is_lost(
    fresh_home: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh_home.path / "models" / MODEL
    folder.mkdir(parents=True)
    write_model(folder)
    kept, draw = Kept(), random.Random(SEED)
    with FakeHub() as hub:
        hub.repositories[FETCHED] = Repository({"Nice-Model-Q4_K_M.gguf": FILE})
        hub.drops = [10**6, 10**5, None]
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for number in range(KILLS):
            client = fresh_home.attach()
            writers = [Writer(f"{number}.{n}", client.socket, kept) for n in range(WRITERS)]
            writers.append(Setter(f"{number}.setter", client.socket, kept))
            for writer in writers:
                writer.start()
            goal = sum(kept.counts().values()) + draw.randrange(4, 20)
            wait_for(lambda goal=goal: sum(kept.counts().values()) >= goal, "answers")  # type: ignore[misc]
            time.sleep(0.3 * draw.random())
            fresh_home.kill()
            for writer in writers:
                writer.join(60)
            assert [writer.fault for writer in writers if writer.fault] == []
            del writers
            gc.collect()  # the sockets with which httpcore has tried to connect in vain
            fresh_home.wait_until_empty()
            check_files(fresh_home.path)
            check(fresh_home, kept)
        print(f"seed {SEED}: {kept.counts()}")  # noqa: T201
        finish(fresh_home, kept)
        check_files(fresh_home.path)


def finish(home: ServerHome, kept: Kept) -> None:
    """What was begun comes to its end."""
    http = home.attach().http

    def get(path: str) -> Any:
        return _checked(http.get(path, timeout=60))

    for batch in kept.batches:
        wait_for(lambda id_=batch: get(f"/v1/batches/{id_}")["status"] == "completed", "a batch")  # type: ignore[misc]
        counts = get(f"/v1/batches/{batch}")["request_counts"]
        assert counts == {"total": LINES, "completed": LINES, "failed": 0}
    for job in kept.downloads:
        path = f"/api/v1/models/download/status/{job}"
        wait_for(lambda path=path: get(path)["status"] == "completed", "a download")  # type: ignore[misc]

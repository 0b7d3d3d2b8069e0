"""/v1/files: the official SDK, strictly, against the real server; and forms in pieces."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_home import ServerHome, wait_for
from starlette.requests import Request

from lmnb.client import Client
from lmnb.errors import NotFound
from lmnb.server import uploads
from lmnb.server.database import Database
from lmnb.server.errors import DiskFull, PayloadTooLarge
from lmnb.server.files import Draft, File, Files


@pytest.fixture(scope="module")
def client(server: ServerHome) -> Client:
    return server.attach()


@pytest.fixture(scope="module")
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    database = Database(tmp_path / "lmnb.db")
    yield Files(database, tmp_path / "files")
    database.close()


def test_a_file_comes_back_as_it_was(sdk: openai.OpenAI, server: ServerHome) -> None:
    data = os.urandom(3_000_000) + b"\r\n--boundary--\r\n" + b"\x00" * 100_000
    file = sdk.files.create(file=("für uns.bin", data), purpose="user_data")
    assert (file.bytes, file.filename, file.purpose) == (len(data), "für uns.bin", "user_data")
    assert (file.status, file.expires_at) == ("processed", None)
    assert sdk.files.content(file.id).content == data
    assert sdk.files.retrieve(file.id) == file
    assert (server.path / "files").stat().st_mode & 0o077 == 0

    assert sdk.files.delete(file.id).deleted
    assert not (server.path / "files" / file.id).exists()
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError, match=file.id):
            call(file.id)


def test_files_are_listed(sdk: openai.OpenAI) -> None:
    for file in sdk.files.list():
        sdk.files.delete(file.id)
    made = [sdk.files.create(file=(f"{n}", b""), purpose="vision").id for n in range(3)]
    newest = sdk.files.list(purpose="vision", limit=2)
    assert [file.id for file in newest] == made[::-1]  # the SDK turns the pages
    assert newest.has_more
    oldest = sdk.files.list(purpose="vision", order="asc", after=made[0])
    assert [file.id for file in oldest] == made[1:]
    assert made[2] in {file.id for file in sdk.files.list()}
    assert not list(sdk.files.list(purpose="assistants"))
    for id_ in made:
        sdk.files.delete(id_)


def test_files_that_expire(sdk: openai.OpenAI, files: Files) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    file = sdk.files.create(file=("a", b"a"), purpose="batch", expires_after=expiry)
    assert file.expires_at == file.created_at + 3600

    for id_, expires_at in (("old", time.time() - 1), ("new", time.time() + 100)):
        with files.writing() as draft:
            draft.write(b"text")
            files.add(draft, described(id_, expires_at))
    with pytest.raises(NotFound):
        files.find("old")
    listed, _ = files.page(after=None, limit=9, newest_first=True, purpose=None)
    assert [one.id for one in listed] == ["new"]
    files.forget_expired()
    assert [path.name for path in files.path("new").parent.iterdir()] == ["new"]


def described(id_: str, expires_at: float | None = None) -> File:
    return File(id=id_, purpose="batch", filename="a", bytes=4, created_at=0, expires_at=expires_at)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"data": {"purpose": "batch"}, "files": {"other": b"a"}}, "file"),
        ({"files": {"file": b"a"}}, "purpose"),
        ({"data": {"purpose": "fun"}, "files": {"file": b"a"}}, "purpose"),
        ({"json": {"purpose": "batch"}}, None),
        ({"data": {"purpose": "batch"}, "files": [("file", b"a"), ("file", b"b")]}, "file"),
        ({"data": {"purpose": "x" * 70_000}, "files": {"file": b"a"}}, "purpose"),
        ({"data": {f"{n:02000}": "x" for n in range(40)}, "files": {"file": b"a"}}, f"{32:02000}"),
        (
            {
                "data": {"purpose": "batch", "expires_after[seconds]": "99999999"},
                "files": {"file": b"a"},
            },
            "expires_after.anchor",
        ),
        (
            {
                "data": {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "99999999",
                },
                "files": {"file": b"a"},
            },
            "expires_after.seconds",
        ),
    ],
)
def test_bad_forms(client: Client, server: ServerHome, form: Any, param: str | None) -> None:
    before = set((server.path / "files").iterdir())
    response = client.http.post("/v1/files", **form)
    assert response.status_code in {400, 413}
    assert response.json()["error"]["param"] == param
    assert set((server.path / "files").iterdir()) == before


def test_an_upload_that_is_broken_off_leaves_nothing(client: Client, server: ServerHome) -> None:
    folder = server.path / "files"
    before = set(folder.iterdir())
    seen: list[int] = []

    def body() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        yield b"a" * 300_000
        wait_for(lambda: set(folder.iterdir()) != before, "the draft")
        seen.append(len(set(folder.iterdir()) - before))
        raise RuntimeError("the client dies")

    transport = httpx2.HTTPTransport(uds=client.socket)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    with (
        httpx2.Client(transport=transport, base_url="http://local", headers=kind) as http,
        pytest.raises(RuntimeError, match="dies"),
    ):
        http.post("/v1/files", content=body())
    assert seen == [1]
    wait_for(lambda: set(folder.iterdir()) == before, "the draft to be removed")


# --- the parts ---------------------------------------------------------------------------


def post(pieces: list[bytes]) -> Request:
    messages = [
        {"type": "http.request", "body": piece, "more_body": more}
        for piece, more in [*((piece, True) for piece in pieces), (b"", False)]
    ]

    async def receive() -> Any:
        return messages.pop(0)

    headers = [(b"content-type", b'multipart/form-data; boundary="=-x"')]
    return Request({"type": "http", "headers": headers, "method": "POST"}, receive)


FORM = (
    b'--=-x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--=-x\r\nContent-Disposition: form-data; name="file"; filename="a \xc3\xbc.jsonl"\r\n'
    b"Content-Type: text/plain\r\n\r\none\r\n--=-\r\ntwo\r\n--=-x--\r\n"
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(FORM)), max_size=12))
def test_forms_may_come_in_any_pieces(tmp_path_factory: Any, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(FORM)]
    pieces = [FORM[a:b] for a, b in pairwise(places)]
    draft = Draft(tmp_path_factory.getbasetemp() / "draft")
    form = asyncio.run(uploads.read_upload(post(pieces), draft))
    draft.move(draft.path.with_name("moved"))
    assert draft.path.with_name("moved").read_bytes() == b"one\r\n--=-\r\ntwo"
    assert (form.fields, form.filename) == ({"purpose": "batch"}, "a ü.jsonl")


def test_files_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_FILE", 8)
    with pytest.raises(PayloadTooLarge):
        asyncio.run(uploads.read_upload(post([FORM]), Draft(tmp_path / "draft")))


def test_a_full_disk_is_said_to_be_full(files: Files) -> None:
    with files.writing() as draft:
        draft.path.symlink_to("/dev/full")
        draft.write(b"text")
        with pytest.raises(DiskFull, match="full"):
            files.add(draft, described("full"))
    with pytest.raises(NotFound):
        files.find("full")
    assert not list(files.path("full").parent.iterdir())


def test_what_a_kill_leaves_is_swept(tmp_path: Path) -> None:
    database = Database(tmp_path / "lmnb.db")
    first = Files(database, tmp_path / "files")
    with first.writing() as draft:
        draft.write(b"text")
        first.add(draft, described("kept"))
    (tmp_path / "files" / ".draft").write_bytes(b"of an upload")
    (tmp_path / "files" / "file-without-a-row").write_bytes(b"of a batch")
    Files(database, tmp_path / "files")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["kept"]
    database.close()

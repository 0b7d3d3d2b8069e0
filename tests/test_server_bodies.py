"""Request bodies: limits, compression, bombs; and what surrounds requests: paths, headers."""

from __future__ import annotations

import asyncio
import gzip
import resource
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import zstandard
from own_server import app_with, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lmnb.server import body, compression, notes
from lmnb.server.paths import TolerantPaths, corrected

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
ANY = b'{"x": "a"}'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
}


def posted(path: str, *bodies: tuple[bytes, dict[str, str]]) -> list[httpx2.Response]:
    async def handle(request: Request) -> Response:
        return JSONResponse(await body.read(request, dict[str, Any]))

    async def run() -> list[httpx2.Response]:
        async with serving(app_with(path, handle)) as client:
            return [await client.post(path, content=c, headers=h) for c, h in bodies]

    return asyncio.run(run())


def coded(name: str) -> dict[str, str]:
    return {"content-encoding": name.rsplit(maxsplit=1)[-1]}


def test_compressed_bodies() -> None:
    large = b'{"x": "%b"}' % (b"ab" * 200_000)
    for name, pack in PACKERS.items():
        for data in (ANY, large):
            [answer] = posted(CHAT, (pack(data), coded(name)))
            assert answer.json()["x"] == data[7:-2].decode(), name
    [double] = posted(CHAT, (gzip.compress(ANY[:4]) + gzip.compress(ANY[4:]), coded("gzip")))
    assert double.json() == {"x": "a"}
    frames = PACKERS["zstd"](ANY[:4]) + PACKERS["zstd"](ANY[4:])
    assert posted(CHAT, (frames, coded("zstd")))[0].json() == {"x": "a"}
    assert posted(CHAT, (ANY, coded("Identity")))[0].json() == {"x": "a"}


@pytest.mark.parametrize("name", PACKERS)
def test_damaged_bodies_are_said_to_be_damaged(name: str) -> None:
    packed = PACKERS[name](ANY * 20)
    for bad in (packed[:-1], packed[:3], b"", b"plain text", packed + b"rest"):
        with pytest.raises(compression.InvalidCompression, match=name.rsplit(maxsplit=1)[-1]):
            compression.decompress(bad, name.rsplit(maxsplit=1)[-1], 1 << 20)


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip"])
def test_other_codings_are_refused(coding: str) -> None:
    [answer] = posted(CHAT, (ANY, {"content-encoding": coding}))
    assert answer.status_code == 415
    error = answer.json()["error"]
    assert error["code"] == "unsupported_content_encoding"
    assert "gzip, zstd, deflate" in error["message"]


def test_bodies_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_BODY", 1 << 20)
    large = b'{"x": "%b"}' % (b"a" * (1 << 20))
    packed = [(pack(large), coded(name)) for name, pack in PACKERS.items()]
    for path, code in ((MESSAGES, "type"), (CHAT, "code")):
        for answer in posted(path, (large, {}), *packed):
            assert answer.status_code == 413
            assert answer.json()["error"][code] == "request_too_large"


@pytest.mark.parametrize("name", PACKERS)
def test_a_bomb_takes_no_memory(name: str) -> None:
    """A gigabyte of zeros in at most a megabyte."""
    coding = name.rsplit(maxsplit=1)[-1]
    packer: Any = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}.get(name, -15))
    if name == "zstd":
        packer = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(1024)) + packer.flush()
    assert len(bomb) < 2 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(compression.TooLarge):
        compression.decompress(bomb, coding, 1 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_window_without_bounds_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    data = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = data.compress(bytes(1 << 20)) + data.flush()
    with pytest.raises(compression.InvalidCompression):
        compression.decompress(packed, "zstd", 2 << 20)


# --- paths, ids, notes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/responses/resp_1/input_items", "/v1/responses/resp_1/input_items"),
        ("/models/owner/name@q4", "/v1/models/owner/name@q4"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/models/", "/v1/models"),
        ("/", "/"),
        ("/api/v1/models", "/api/v1/models"),
        ("/api/v0/chat/completions", "/api/v0/chat/completions"),
        ("/v1/v1", "/v1/v1"),
        ("/modelsandmore", "/modelsandmore"),
        ("/lmnb/status", "/lmnb/status"),
    ],
)
def test_paths_as_they_are_meant(sent: str, meant: str) -> None:
    assert corrected(sent) == meant


def test_query_strings_stay() -> None:
    async def handle(request: Request) -> Response:
        return JSONResponse([request.url.path, dict(request.query_params)])

    async def run() -> list[Any]:
        app = TolerantPaths(Starlette(routes=[Route("/v1/messages", handle, methods=["GET"])]))
        async with serving(app) as client:
            paths = ("/v1/v1/messages?beta=true", "/messages/?beta=true&a=/v1/v1/b")
            return [(await client.get(path)).json() for path in paths]

    first, second = asyncio.run(run())
    assert first == ["/v1/messages", {"beta": "true"}]
    assert second == ["/v1/messages", {"beta": "true", "a": "/v1/v1/b"}]


def test_what_is_left_out_is_in_a_header() -> None:
    async def handle(_request: Request) -> Response:
        for text in ("A tool\nwas left out.", "Größe × 2.", "A tool\nwas left out."):
            await asyncio.create_task(told(text))
        return JSONResponse({})

    async def told(text: str) -> None:
        notes.note(text)

    async def run() -> list[httpx2.Response]:
        async with serving(app_with("/v1/x", handle)) as client:
            return [await client.post("/v1/x") for _ in range(2)]

    for answer in asyncio.run(run()):
        assert answer.headers["x-lmnb-warning"] == "A tool was left out. Gr\\xf6\\xdfe \\xd7 2."
    notes.note("Outside of any request this is a line in the log only.")

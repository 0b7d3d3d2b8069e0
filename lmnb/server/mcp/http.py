"""Remote MCP servers over HTTP, by the SDK's transport, with bounds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from lmnb.server.mcp.faults import Fault, Report
from lmnb.server.mcp.servers import Remote

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_CONNECT_PATIENCE = 30.0
_MOST_BYTES = 64 << 20
"""Of one response, so that no server fills the memory."""


@asynccontextmanager
async def http(
    place: Remote, report: Report, auth: httpx2.Auth | None
) -> AsyncGenerator[TransportStreams, None]:
    """The SDK's transport to a server that speaks "streamable HTTP"; `auth` says who uses it."""
    from mcp.client.streamable_http import streamable_http_client

    async with (
        _Client(
            report,
            headers={"accept-encoding": "identity", **place.headers},
            timeout=httpx2.Timeout(_CONNECT_PATIENCE, read=None),
            transport=Bounded(httpx2.AsyncHTTPTransport(), report),
            follow_redirects=False,
            auth=auth,
        ) as client,
        streamable_http_client(
            place.url, http_client=client, max_sse_event_size=_MOST_BYTES
        ) as streams,
    ):
        yield streams


class _Client(httpx2.AsyncClient):
    """Tells what is wrong: the SDK, which asked, does not hand it on."""

    def __init__(self, report: Report, **options: Any) -> None:
        super().__init__(**options)
        self._report = report

    async def send(self, *args: Any, **options: Any) -> httpx2.Response:
        try:
            return await super().send(*args, **options)
        except Fault as fault:
            self._report(fault)
            raise


class Bounded(httpx2.AsyncBaseTransport):
    """Responses of at most `_MOST_BYTES`, uncompressed: a few bytes could become very many.

    `report` is told of what is found out while a response is read.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, report: Report) -> None:
        self._inner = inner
        self._report = report

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.stream.aclose()
            raise Fault("it compresses what it says, unasked.")
        response.stream = _BoundedStream(response.stream, self._report)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, report: Report) -> None:
        self._inner = inner
        self._report = report

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in self._inner:
            size += len(chunk)
            if size > _MOST_BYTES:
                fault = Fault(f"it sent more than {_MOST_BYTES >> 20} MiB at once.")
                self._report(fault)
                raise fault
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()

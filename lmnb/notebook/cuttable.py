"""A client whose connections another thread can cut.

A thread that waits for the server hears of nothing else. Closing its connection under it ends the wait
at once, also while a prompt is still being read, and the server stops what it does for it.
"""

from __future__ import annotations

import copy
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from lmnb.client import Client


class Cuttable:
    """A copy of `client` with connections of its own, for one thread."""

    def __init__(self, client: Client) -> None:
        self._transport = _Transport(client.socket)
        self.client = copy.copy(client)
        self.client.http = httpx2.Client(
            transport=self._transport,
            base_url=client.http.base_url,
            timeout=client.http.timeout,
            trust_env=False,
        )

    @property
    def is_cut(self) -> bool:
        """Whether `cut` was called."""
        return self._transport.is_cut

    def cut(self) -> None:
        """End all that goes through it, now and later; there it looks as if the server had ended."""
        self._transport.cut()


class _Transport(httpx2.HTTPTransport):
    def __init__(self, path: str) -> None:
        super().__init__(uds=path, verify=False)
        self._sockets: list[socket.socket] = []
        self.is_cut = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions = {**request.extensions, "trace": self._trace}
        return super().handle_request(request)

    def cut(self) -> None:
        self.is_cut = True
        for one in self._sockets:
            # The other thread is waiting in `recv`, which only this wakes. It may be closed already.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        if name != "connection.connect_unix_socket.complete":
            return
        self._sockets.append(info["return_value"].get_extra_info("socket"))
        if self.is_cut:
            self.cut()

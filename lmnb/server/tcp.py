"""`serve`: the public app on TCP, opened and closed on request."""

from __future__ import annotations

import asyncio
import logging
import socket

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from lmnb.config import Settings
from lmnb.errors import Forbidden, InvalidRequest
from lmnb.server import notes
from lmnb.server.auth import Gate, is_loopback
from lmnb.server.journal import Journal, Recorded
from lmnb.server.listeners import Listener, TCPInfo, bind_tcp, tcp_info
from lmnb.server.tokens import Tokens
from lmnb.server.tracking import Activity

_log = logging.getLogger(__name__)
_EXPOSED = (
    "request-id",
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    "x-should-retry",
    notes.HEADER,
)
"""Headers of answers that scripts in web pages may read: what SDKs look at."""


class TCPControl:
    """The one TCP listener there may be. `info` is None while there is none."""

    def __init__(
        self, settings: Settings, tokens: Tokens, activity: Activity, journal: Journal
    ) -> None:
        self.info: TCPInfo | None = None
        self.app: ASGIApp | None = None
        self._settings = settings
        self._tokens = tokens
        self._activity = activity
        self._journal = journal
        self._listener: Listener | None = None
        self._lock = asyncio.Lock()

    async def open(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        require_auth: bool | None = None,
        allow_open: bool = False,
    ) -> tuple[TCPInfo, bool]:
        """Listen; what is None comes from the settings. Port 0 takes any free one.

        Asking again for what is already open changes nothing; the second value says whether this
        call opened it.

        Raises
        ------
        Forbidden
            Beyond loopback with neither tokens nor `allow_open`.
        InvalidRequest
            It listens already, elsewhere or otherwise.
        PortInUse, ConfigError
            See `bind_tcp`.
        """
        host = self._settings.host if host is None else host
        port = self._settings.port if port is None else port
        if not 0 <= port <= 65535:
            raise InvalidRequest(f"A port lies between 0 and 65535, not at {port}.", param="port")
        auth = self._settings.require_auth if require_auth is None else require_auth
        if not (auth or allow_open or is_loopback(host)):
            raise Forbidden(
                f"Listening on {host} would let anybody on the network use your models.",
                hint="Ask for tokens with --require-auth (`lmnb token create NAME` makes one), or "
                "say --allow-open if you trust the network.",
                param="host",
            )
        async with self._lock:
            if self.info is not None:
                return _same_or_error(self.info, host, port, auth=auth), False
            sock = await asyncio.to_thread(bind_tcp, host, port)
            listener = Listener(self._gated(sock, auth=auth), sock, self._activity)
            await listener.start()
            self._listener, self.info = listener, tcp_info(sock, require_auth=auth)
            _log.info("Listening on %s", self.info.url)
            return self.info, True

    async def close(self) -> bool:
        """Stop listening and end the streams; models stay loaded. Whether anything was open."""
        async with self._lock:
            if self._listener is None or self.info is None:
                return False
            await self._listener.stop()
            _log.info("No longer listening on %s", self.info.url)
            self._listener = self.info = None
            return True

    def _gated(self, sock: socket.socket, *, auth: bool) -> ASGIApp:
        assert self.app is not None
        loopback = is_loopback(sock.getsockname()[0])
        gate = Gate(
            self.app,
            tokens=self._tokens if auth else None,
            # Who has a token is no web page that got here by rebinding a name.
            hosts=self._settings.allowed_hosts if loopback or not auth else None,
            any_origin=self._settings.cors,
        )
        app: ASGIApp = Recorded(gate, self._journal)
        if self._settings.cors:
            app = CORSMiddleware(
                app,
                allow_origins=["*"],
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            )
        return app


def _same_or_error(info: TCPInfo, host: str, port: int, *, auth: bool) -> TCPInfo:
    same_host = host == info.host or (host == "localhost" and is_loopback(info.host))
    if same_host and port in {0, info.port} and auth == info.require_auth:
        return info
    kind = "with tokens" if info.require_auth else "without tokens"
    raise InvalidRequest(
        f"The server already listens on {info.url} ({kind}).",
        hint="Close that first with `lmnb serve --stop`.",
    )

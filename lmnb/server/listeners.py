"""The sockets the server listens on: one private, and one TCP after `serve`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import uvicorn
from starlette.types import ASGIApp

from lmnb.errors import ConfigError, PortInUse
from lmnb.server.body import MAX_BODY
from lmnb.server.tracking import Activity, Tracked

_KEEP_ALIVE = 75  # Longer than clients keep idle connections, so that it is they who close them.
_GRACE = 3  # Seconds for answers that were told to end.


class Listener:
    """One listening socket and the uvicorn server behind it.

    Several live in one loop and start and stop independently (uvicorn's own signal handling is
    off; lifespans are the process's affair).
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        activity: Activity,
        *,
        quiet: frozenset[str] = frozenset(),
        watching: frozenset[str] = frozenset(),
    ) -> None:
        self._tracked = Tracked(app, activity, quiet=quiet, watching=watching)
        self._socket = sock
        config = uvicorn.Config(
            self._tracked,
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=MAX_BODY,
            # Compressing every small frame takes time from the model.
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                await self._task  # Raises what went wrong.
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Close the socket and end what is being answered; at most a few seconds."""
        if self._task is None:
            return
        for server in self._server.servers:
            server.close()
        self._tracked.end_all()
        self._server.should_exit = True
        await self._task
        self._task = None
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


class TCPInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An open TCP listener. `url` works on this machine; `network_url` from others, if they may."""

    url: str
    network_url: str | None
    host: str
    port: int
    require_auth: bool


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind_unix(path: Path) -> socket.socket:
    """A socket at `path` for this user alone, in place of one that a killed server left."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Nothing else runs in this process yet, or only on this loop: the mask is seen by nobody.
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(mask)
    sock.setblocking(False)
    return sock


def bind_tcp(host: str, port: int) -> socket.socket:
    """A bound socket. Blocks (name lookup).

    Raises
    ------
    PortInUse
        Somebody listens there; the message says who, as far as the system tells.
    ConfigError
        The address is not this machine's, or the port needs privileges.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"{host!r} is not an address of this machine: {error.strerror}."
        ) from None
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        # Here rather than later in the loop: two processes can both bind, only one can listen.
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise _bind_error(error, host, port) from None
    sock.setblocking(False)
    return sock


def tcp_info(sock: socket.socket, *, require_auth: bool) -> TCPInfo:
    """How to reach a listening socket."""
    host, port = sock.getsockname()[:2]
    wildcard = host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    local = "127.0.0.1" if wildcard else host
    network = _network_address() if wildcard else None
    return TCPInfo(
        url=f"http://{_bracketed(local)}:{port}",
        network_url=f"http://{network}:{port}" if network else None,
        host=host,
        port=port,
        require_auth=require_auth,
    )


def _bind_error(error: OSError, host: str, port: int) -> PortInUse | ConfigError:
    other = port + 1 if port < 65535 else 1234
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"Port {port} is taken by {_listening_program(port)}.",
            hint=f"Stop that program, or choose another port: --port {other}.",
            param="port",
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"Port {port} may only be opened by the administrator.",
            hint="Choose a port above 1023: --port 1234.",
            param="port",
        )
    return ConfigError(f"{host}:{port} cannot be opened: {error.strerror}.", param="host")


def _listening_program(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if listening and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program, perhaps LM Studio" if port == 1234 else "another program"


def _network_address() -> str | None:
    """The address that other machines reach this one by. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = sock.getsockname()[0]
        return address


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""A connected endpoint: its HTTP client, what it has, how it is, how much it has to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Literal

import httpx2
import msgspec

from lmnb.errors import (
    ConfigError,
    EndpointBusy,
    EndpointFailed,
    LmnbError,
    ModelNotFound,
    NotSupported,
)
from lmnb.models.remote.answers import read, refusal
from lmnb.models.remote.cooldown import Cooldown
from lmnb.models.remote.endpoint import Endpoint, RemoteModel
from lmnb.models.remote.keys import Keys
from lmnb.models.remote.listing import Listing, no_list, parse

_log = logging.getLogger(__name__)

CONNECT = 5.0
"""Seconds to reach an endpoint."""
PATIENCE = 10.0
"""Seconds it may take to list its models."""
FRESH = 30.0
"""Seconds a list of models is taken for granted."""
_MOST_BYTES_OF_LIST = 16 << 20
_KEPT_CONNECTIONS = 64


class Link:
    """One endpoint. Belongs to the event loop it was made in.

    active
        Requests that it is answering now.
    listing
        What it was and had when it last told; None: it has not, so far.
    error
        Why it could not be asked for its models the last time; None: it could.
    key
        Its API key; None: not looked for yet, or there is none. One that is refused is forgotten.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keys: Keys,
        timeout: Callable[[], float],
        via: Callable[[], str],
        *,
        key: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.active = 0
        self.served = 0
        self.failed = 0
        self.last_used = 0
        self.cooldown = Cooldown()
        self.listing: Listing | None = None
        self.error: LmnbError | None = None
        self._keys = keys
        self._timeout = timeout
        self._via = via
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self.key = key
        self._is_closed = False
        self._listed_at = -FRESH
        self._listing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.endpoint.name

    @property
    def models(self) -> tuple[RemoteModel, ...]:
        """What it is known to have."""
        return self.listing.models if self.listing else ()

    def model(self, id_: str) -> RemoteModel | None:
        """Its model of that id, whatever its case."""
        exact = next((one for one in self.models if one.id == id_), None)
        wanted = id_.casefold()
        return exact or next((one for one in self.models if one.id.casefold() == wanted), None)

    @property
    def state(self) -> Literal["up", "down", "unknown"]:
        """Whether it answers, as far as is known."""
        if self.error is not None or self.cooldown.circuit == "open":
            return "down"
        return "unknown" if self.listing is None else "up"

    @property
    def trouble(self) -> str | None:
        """What is wrong with it, if anything is known to be."""
        return str(self.error) if self.error is not None else self.cooldown.cause

    # --- its models ---------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Whether its list of models need not be asked for."""
        return time.monotonic() - self._listed_at < FRESH

    def refresh(self) -> asyncio.Task[None]:
        """Ask for its models, unless that is under way. The task never fails: see `error`."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list())
        return self._listing

    async def _list(self) -> None:
        failure: LmnbError | None = None
        try:
            async with asyncio.timeout(PATIENCE), self.request("GET", "/models") as response:
                content = await read(response, _MOST_BYTES_OF_LIST)
                self.listing = parse(self.name, content, response.headers)
        except TimeoutError:
            failure = EndpointFailed(
                f"The endpoint {self.name} did not list its models in {PATIENCE:.0f} s."
            )
        except NotSupported:
            failure = no_list(self.name)
        except LmnbError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever it is, lists have to go on
            _log.exception("The models of the endpoint %s could not be read", self.name)
            failure = EndpointFailed(f"Its models could not be read: {error!r}.")
        self._listed_at = time.monotonic()
        self.error = failure
        if failure is None:
            self.cooldown.answered()
        else:
            self.cooldown.fail(str(failure))

    # --- requests -----------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def use(self, on_end: Callable[[str, str], None]) -> AsyncGenerator[None, None]:
        """Around a request that is to be answered: counts it, and learns from how it ends.

        `on_end` is called with the endpoint's name and `answered`, `refused`, `failed` or `left`.
        """
        self.active += 1
        self._idle.clear()
        self.last_used = time.monotonic_ns()
        self.cooldown.begin()
        outcome = "left"
        try:
            yield
            outcome = "answered"
        except EndpointFailed as error:
            outcome = "failed"
            pause = error.retry_after if isinstance(error, EndpointBusy) else None
            self.cooldown.fail(error.message, pause)
            raise
        except LmnbError as error:
            outcome = "refused"
            if isinstance(error, ModelNotFound):
                self._listed_at = -FRESH
            raise
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()
            if outcome == "answered":
                self.cooldown.succeed()
                self.error = None
            elif outcome != "failed":  # It may not even have been sent.
                self.cooldown.give_up()
            self.served += outcome == "answered"
            self.failed += outcome == "failed"
            on_end(self.name, outcome)

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        at_root: bool = False,
    ) -> AsyncGenerator[httpx2.Response, None]:
        """A response with status 200, its body not read yet.

        `path` comes after the endpoint's address, or, `at_root`, after that without its `/v1`.

        Raises
        ------
        EndpointFailed
            There is no key, or it cannot be reached, is silent for too long, or breaks off; the same
            for what goes wrong in the block.
        LmnbError
            What it answers with another status: see `answers.error_of`.
        """
        base = self.endpoint.url
        url = (base.removesuffix("/v1") if at_root else base) + path
        key = ""
        try:
            client, key = await self._open()
            headers = {"x-lmnb-via": self._via()}
            content = None
            if body is not None:
                content = msgspec.json.encode(body)
                headers["content-type"] = "application/json"
            if key:
                headers["authorization"] = f"Bearer {key}"
            timeout = httpx2.Timeout(self._timeout(), connect=CONNECT)
            async with client.stream(
                method, url, content=content, headers=headers, timeout=timeout
            ) as response:
                if response.status_code in {401, 403}:
                    self.key = None  # It is looked for anew the next time.
                if response.status_code != 200:
                    raise await refusal(self.name, response)
                yield response
        except httpx2.HTTPError as error:
            raise EndpointFailed(self._reason(error)) from None
        except ConfigError as error:  # There is no key.
            raise EndpointFailed(error.message, hint=error.hint) from None
        except LmnbError as error:
            raise _without(key, error) from None

    async def close(self, *, when_idle: bool = False) -> None:
        """End its connections, at once or after its last answer."""
        if when_idle:
            await self._idle.wait()
        self._is_closed = True
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.gather(self._listing, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _open(self) -> tuple[httpx2.AsyncClient, str]:
        """The client, and the key, if there is to be one."""
        async with self._opening:
            if self._is_closed:
                # Who asks had chosen it before, and had something else to do first.
                raise EndpointFailed(f"The endpoint {self.name} was disconnected.")
            if self.endpoint.key_env is not None and self.key is None:
                self.key = await asyncio.to_thread(self._keys.find, self.endpoint.key_env)
            if self._client is None:
                encrypted = self.endpoint.url.startswith("https:")
                # Loading the certificates takes 80 ms.
                verify = await asyncio.to_thread(ssl.create_default_context) if encrypted else False
                limits = httpx2.Limits(
                    max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS
                )
                self._client = httpx2.AsyncClient(
                    verify=verify, limits=limits, follow_redirects=False
                )
        return self._client, self.key or ""

    def _reason(self, error: httpx2.HTTPError) -> str:
        who = f"The endpoint {self.name}"
        if isinstance(error, httpx2.ConnectTimeout):
            return f"{who} ({self.endpoint.url}) cannot be reached: no answer in {CONNECT:.0f} s."
        if isinstance(error, httpx2.ConnectError):
            return f"{who} ({self.endpoint.url}) cannot be reached: {error}."
        if isinstance(error, httpx2.TimeoutException):
            return f"{who} said nothing for {self._timeout():g} s."
        return f"{who} broke off: {str(error) or type(error).__name__}."


def _without(key: str, error: LmnbError) -> LmnbError:
    """The error without the key: some servers repeat the one they refuse."""
    if key and key in error.message:
        error.message = error.message.replace(key, "…")
    return error

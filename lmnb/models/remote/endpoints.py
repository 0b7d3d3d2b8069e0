"""All endpoints of a server: kept in `$LMNB_HOME/endpoints.json`, changed while it runs.

The file holds `{"endpoints": {name: {"url": …, "key_env": …}}}`, and no keys.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from lmnb.config import Settings, read_json, write_json
from lmnb.errors import (
    ConfigError,
    EndpointLoop,
    InvalidRequest,
    LmnbError,
    ModelNotFound,
    NotFound,
)
from lmnb.models.remote.endpoint import Endpoint, Flavour, RemoteModel, make
from lmnb.models.remote.keys import Keys, checked
from lmnb.models.remote.link import Link

_log = logging.getLogger(__name__)

_FIRST_LIST = 1.0
"""Seconds that a list of models waits for an endpoint that has never told its own."""


class Target(msgspec.Struct, frozen=True):
    """What a model's name means, if it is remote: the model, at one or more endpoints.

    key
        The name to show: `endpoint/model`, or the model's id where any of several will do.
    """

    key: str
    model: RemoteModel
    links: tuple[Link, ...]

    def at(self, link: Link) -> tuple[str, Flavour]:
        """What one of the endpoints calls the model, and whose server it is."""
        model = link.model(self.model.id) or self.model
        return model.id, link.listing.flavour if link.listing else "other"

    def choose(self, tried: Iterable[Link] = (), session: str | None = None) -> Link | None:
        """The endpoint with the fewest requests under way; None: all have been `tried`.

        Those that have failed of late are left out as long as there is another. Among equals a
        `session` keeps to one, which has its prefix in the cache; other requests take turns.
        """
        done = set(map(id, tried))
        left = [link for link in self.links if id(link) not in done]
        for link in left:
            if link.cooldown.wants_probe:
                link.refresh()
        usable = [link for link in left if link.cooldown.is_usable]
        if not usable and not done:
            usable = left
        if session is None:
            return min(usable, key=lambda link: (link.active, link.last_used), default=None)
        return min(usable, key=lambda one: (one.active, hash((session, one.name))), default=None)


class Endpoints:
    """The endpoints, by name.

    `via` gives the servers that the request at hand has passed, this one included.
    """

    def __init__(self, settings: Settings, via: Callable[[], str] = str) -> None:
        self._path = settings.home / "endpoints.json"
        self._settings = settings
        self._via = via
        self._changing = asyncio.Lock()
        self._is_read = False
        self.keys = Keys(settings.home)
        self.links: list[Link] = []

    async def start(self) -> None:
        """Read the file, and begin to ask what there is. A broken file is logged."""
        try:
            await self.ensure_read()
        except LmnbError as error:
            _log.error("No endpoint is used: %s", error)

    async def ensure_read(self) -> None:
        """Read the file, if it has not been yet, since it was broken.

        Raises
        ------
        ConfigError
            It is broken.
        """
        async with self._changing:
            await self._read()

    async def _read(self) -> None:
        if self._is_read:
            return
        found = await asyncio.to_thread(_read, self._path)
        self.links = [self._link(endpoint) for endpoint in found]
        self._is_read = True
        for link in self.links:
            link.refresh()

    async def close(self) -> None:
        """End all connections."""
        await asyncio.gather(*(link.close() for link in self.links))

    async def connect(
        self,
        url: str,
        name: str | None = None,
        key_env: str | None = None,
        *,
        key: str | None = None,
        save_key: bool = False,
    ) -> Link:
        """Add an endpoint, or change the one of that name, once it has told its models.

        Parameters
        ----------
        key
            What `key_env` holds for whoever asks for this. If it is good it is remembered until the
            server ends, and goes before what the server's own environment says.
        save_key
            Keep the key on disk, for later starts of the server.

        Raises
        ------
        InvalidRequest
            Something cannot be as it is given, or the address leads to this server.
        ConfigError
            A file cannot be used.
        EndpointFailed
            There is no key, or it cannot be reached, or is no such server.
        """
        endpoint = make(url, name, key_env)
        if key_env is None and save_key:
            raise InvalidRequest("There is no key to save.", param="key_env")
        link = self._link(endpoint, checked(key) if key_env and key else None)
        try:
            await self._get_known(link)
            async with self._changing:
                await self._read()
                if key_env is not None and key:
                    self.keys.bring(key_env, key)
                if key_env is not None and link.key is not None and save_key:
                    await asyncio.to_thread(self.keys.save, key_env, link.key)
                kept = [one for one in self.links if one.name.casefold() != link.name.casefold()]
                await self._write([*(one.endpoint for one in kept), endpoint])
                replaced = [one for one in self.links if one not in kept]
                self.links = [*kept, link]
        except BaseException:
            await link.close()
            raise
        _close_when_done(replaced)
        return link

    async def disconnect(self, name: str) -> Link:
        """Forget an endpoint. What it is answering goes on.

        Raises
        ------
        NotFound
            There is none of that name.
        ConfigError
            The file cannot be used.
        """
        async with self._changing:
            await self._read()
            link = self.named(name)
            if link is None:
                names = ", ".join(one.name for one in self.links)
                raise NotFound(
                    f"There is no endpoint {name!r}.",
                    hint=f"Endpoints: {names}." if names else "`lmnb connect URL` adds one.",
                    param="name",
                )
            kept = [one for one in self.links if one is not link]
            await self._write([one.endpoint for one in kept])
            self.links = kept
        _close_when_done([link])
        return link

    def named(self, name: str) -> Link | None:
        """The endpoint of that name, whatever its case."""
        wanted = name.strip().casefold()
        return next((link for link in self.links if link.name.casefold() == wanted), None)

    async def listed(self) -> list[Link]:
        """All endpoints with what they are known to have, which is looked up meanwhile.

        It takes no longer than a moment, whatever the endpoints do: only of those that have never
        told anything an answer is waited for, for a second.
        """
        asked = {link.refresh(): link for link in self.links if not link.is_fresh}
        if new := [task for task, link in asked.items() if link.state == "unknown"]:
            await asyncio.wait(new, timeout=_FIRST_LIST)
        return list(self.links)

    # --- names --------------------------------------------------------------------

    async def at(self, name: str) -> Target | None:
        """What `endpoint/model` means; None: there is no endpoint of that name, or no such model.

        An endpoint that does not answer is taken at its word: what is wrong with it is told then.
        """
        first, slash, id_ = name.strip().partition("/")
        link = self.named(first) if slash and id_ else None
        if link is None:
            return None
        if link.model(id_) is None and not link.is_fresh:
            await link.refresh()
        model = link.model(id_)
        if model is None and link.listing is None:
            model = RemoteModel(id=id_)
        return None if model is None else Target(f"{link.name}/{model.id}", model, (link,))

    async def any_of(self, id_: str) -> Target | None:
        """The model of that id, at all endpoints that have it.

        Endpoints whose lists are old are asked anew if none is known to have it; those that are down
        are not waited for.
        """
        id_ = id_.strip()
        if not any(link.model(id_) for link in self.links):
            stale = {link.refresh(): link for link in self.links if not link.is_fresh}
            await asyncio.gather(*(task for task, link in stale.items() if link.state != "down"))
        found = [(link, model) for link in self.links if (model := link.model(id_))]
        if not found:
            return None
        links, models = zip(*found, strict=True)
        key = models[0].id if len(links) > 1 else f"{links[0].name}/{models[0].id}"
        return Target(key, models[0], links)

    def shared(self) -> list[str]:
        """Ids of models that several endpoints have."""
        ids = Counter(model.id for link in self.links for model in link.models)
        return [id_ for id_, count in ids.items() if count > 1]

    def missing(self, name: str) -> ModelNotFound | None:
        """The error for `endpoint/model` where the endpoint has no such model."""
        first, slash, id_ = name.strip().partition("/")
        link = self.named(first) if slash else None
        if link is None:
            return None
        has = ", ".join(model.id for model in link.models[:8])
        return ModelNotFound(
            f"The endpoint {link.name} has no model {id_!r}.",
            hint=f"It has {has}." if has else "It has no model at all.",
            param="model",
        )

    # --- inside -------------------------------------------------------------------

    def _link(self, endpoint: Endpoint, key: str | None = None) -> Link:
        def timeout() -> float:
            return self._settings.endpoint_timeout

        return Link(endpoint, self.keys, timeout, self._via, key=key)

    async def _get_known(self, link: Link) -> None:
        await link.refresh()
        if link.listing is not None:
            return
        if isinstance(link.error, EndpointLoop):
            raise InvalidRequest(
                f"{link.endpoint.url} is this server itself.",
                hint="Its models are here already.",
                param="url",
            )
        assert link.error is not None
        raise link.error

    async def _write(self, endpoints: Iterable[Endpoint]) -> None:
        data = {one.name: {"url": one.url, "key_env": one.key_env} for one in endpoints}
        await asyncio.to_thread(write_json, self._path, {"endpoints": data})


def _read(path: Path) -> list[Endpoint]:
    data = read_json(path, {"endpoints": {}})
    entries: Any = data.get("endpoints") if isinstance(data, dict) else None
    if not isinstance(entries, dict):
        raise ConfigError(f'{path} must hold {{"endpoints": {{…}}}}.')
    found = []
    for name, entry in entries.items():
        try:
            found.append(make(entry["url"], name, entry.get("key_env")))
        except (TypeError, KeyError, AttributeError):
            raise ConfigError(f"{path}, {name}: an endpoint needs a url.") from None
        except InvalidRequest as error:
            raise ConfigError(f"{path}, {name}: {error}") from None
    return found


_closing: set[asyncio.Task[None]] = set()


def _close_when_done(links: Iterable[Link]) -> None:
    """Close the connections of endpoints that nothing is sent to any more, after the last answer."""
    for link in links:
        task = asyncio.create_task(link.close(when_idle=True))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

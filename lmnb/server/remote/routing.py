"""Which endpoint answers: the least busy one, and the next one if it fails before it has said anything."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from lmnb.chat.events import Event, Prompt
from lmnb.errors import EndpointFailed, InvalidModel, LmnbError, ModelNotFound, NotSupported
from lmnb.models.remote.endpoints import Target
from lmnb.models.remote.link import Link
from lmnb.server.state import State

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def find(state: State, name: str) -> Target | None:
    """What `name` means, if it is a model of an endpoint: `endpoint/model`, or an id that no model
    of this machine has. What is loaded here under that very name goes first: somebody chose it.

    Raises
    ------
    ModelNotFound
        It names an endpoint, which has no such model.
    """
    if not name.strip() or not state.endpoints.links or _is_loaded(state, name):
        return None
    if (target := await state.endpoints.at(name)) is not None:
        return target
    if await _is_here(state, name):
        return None
    if (target := await state.endpoints.any_of(name)) is not None:
        return target
    if (error := state.endpoints.missing(name)) is not None:
        raise error
    return None


async def ensure_here(state: State, name: str, param: str = "model") -> None:
    """Refuse what can only be done with a model of this machine.

    Raises
    ------
    NotSupported
        `name` means a model of an endpoint.
    ModelNotFound
        As `find`.
    """
    if (target := await find(state, name)) is not None:
        names = " and ".join(link.name for link in target.links)
        raise NotSupported(
            f"{target.key} is a remote model: {names} loads and unloads it, not this server.",
            hint="It can be used as it is.",
            param=param,
        )


def _is_loaded(state: State, name: str) -> bool:
    wanted = name.strip().casefold()
    ids = [one.id for one in state.models.loaded()] + [one.id for one in state.models.loading()]
    return any(id_.casefold() == wanted for id_ in ids)


async def _is_here(state: State, name: str) -> bool:
    try:
        await state.catalog.resolve(name)
    except ModelNotFound:
        return False
    except InvalidModel:
        return True
    return True


async def events(
    state: State,
    target: Target,
    ask: Callable[[Link], AsyncGenerator[Event, None]],
    session: str | None,
) -> AsyncGenerator[Event, None]:
    """The events of an answer by one of the endpoints of `target`, with `ask` sent to it.

    Raises
    ------
    EndpointFailed
        The last of the endpoints has failed, or one that had begun to answer.
    """
    tries = _Tries(target, session)
    while True:
        link = tries.next()
        begun = False
        try:
            async with link.use(state.metrics.endpoint), aclosing(ask(link)) as answer:
                async for event in answer:
                    begun = begun or not isinstance(event, Prompt)
                    yield event
        except (EndpointFailed, ModelNotFound) as error:
            if begun or not tries.goes_on(error):
                raise
        else:
            return


async def result(
    state: State, target: Target, ask: Callable[[Link], Awaitable[T]], session: str | None = None
) -> T:
    """The same for what is answered at once."""
    tries = _Tries(target, session)
    while True:
        link = tries.next()
        try:
            async with link.use(state.metrics.endpoint):
                return await ask(link)
        except (EndpointFailed, ModelNotFound) as error:
            if not tries.goes_on(error):
                raise


class _Tries:
    """The endpoints a request has been sent to."""

    def __init__(self, target: Target, session: str | None) -> None:
        self._target = target
        self._session = session
        self._tried: list[Link] = []
        self._next = target.choose((), session)

    def next(self) -> Link:
        """The endpoint that is to answer."""
        assert self._next is not None, "A target has an endpoint."
        self._tried.append(self._next)
        return self._next

    def goes_on(self, error: LmnbError) -> bool:
        """Whether there is another endpoint, after this."""
        self._next = self._target.choose(self._tried, self._session)
        if self._next is not None:
            _log.warning("A request goes to %s instead: %s", self._next.name, error.message)
        return self._next is not None

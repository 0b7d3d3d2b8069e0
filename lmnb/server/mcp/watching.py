"""What a connection looks at as messages pass: lists of tools, and that they have changed.

The SDK refuses a whole list for one tool that is not as the protocol wants it, and tells of changes
some time after it has handed on what came later. So both are seen to on the way to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pydantic import ValidationError

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams, WriteStream
    from mcp.shared.message import SessionMessage

S = TypeVar("S", bound="ReadStream[SessionMessage | Exception] | WriteStream[SessionMessage]")

_LIST = "tools/list"
_CHANGED = "notifications/tools/list_changed"


class ToolWatch:
    """Sees the messages of one connection.

    left_out
        Why tools have been left out of lists since it was last emptied, by their names.
    has_changed
        Whether the server has said so since it was last set to False.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}
        self.has_changed = False
        self._asked: set[Any] = set()

    @asynccontextmanager
    async def over(
        self,
        transport: AbstractAsyncContextManager[TransportStreams],
        version: Callable[[], str],
    ) -> AsyncGenerator[TransportStreams, None]:
        """The same transport, seen to. `version` is the protocol's, once tools are listed."""
        async with transport as (read, write):
            yield _Reading(read, self, version), _Writing(write, self)

    def sends(self, message: SessionMessage) -> None:
        """Look at what goes to the server."""
        sent = message.message
        if getattr(sent, "method", None) == _LIST:
            self._asked.add(getattr(sent, "id", None))

    def receives(self, message: SessionMessage | Exception, version: Callable[[], str]) -> None:
        """Look at what comes from it; tools that would be refused are taken out."""
        received = getattr(message, "message", None)
        if getattr(received, "method", None) == _CHANGED:
            self.has_changed = True
        identifier = getattr(received, "id", None)
        if identifier not in self._asked or hasattr(received, "method"):
            return
        self._asked.discard(identifier)
        result = getattr(received, "result", None)
        if isinstance(result, dict) and isinstance(result.get("tools"), list):
            self._take_out(result, version())

    def _take_out(self, result: dict[str, Any], version: str) -> None:
        if _refusal(result, version) is None:
            return
        kept = []
        for i, tool in enumerate(result["tools"]):
            why = _refusal({**result, "tools": [tool]}, version)
            if why is None:
                kept.append(tool)
            else:
                name = tool.get("name") if isinstance(tool, dict) else None
                self.left_out[name if isinstance(name, str) else f"#{i + 1}"] = why
        result["tools"] = kept


def _refusal(result: dict[str, Any], version: str) -> str | None:
    """Why the SDK would refuse a list of tools."""
    from mcp.types import ListToolsResult
    from mcp_types.methods import validate_server_result

    try:
        validate_server_result(_LIST, version, result)
        ListToolsResult.model_validate(result, by_name=False)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(step) for step in first["loc"]]
        where = ".".join(path[path.index("tools") + 2 :] if "tools" in path else path)
        return f"{where}: {first['msg']}." if where else f"{first['msg']}."
    except (KeyError, ValueError):
        return None  # A version that has no such list: the SDK says so.
    return None


class _Over(Generic[S]):
    """A stream in the place of another, entered, left and closed with it."""

    def __init__(self, inner: S) -> None:
        self._inner = inner

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


class _Reading(_Over["ReadStream[SessionMessage | Exception]"]):
    def __init__(
        self,
        inner: ReadStream[SessionMessage | Exception],
        watch: ToolWatch,
        version: Callable[[], str],
    ) -> None:
        super().__init__(inner)
        self._watch = watch
        self._version = version

    @property
    def last_context(self) -> Any:
        """The SDK runs handlers in the context that a message was sent in."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        message = await self._inner.receive()
        self._watch.receives(message, self._version)
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        message = await self._inner.__anext__()
        self._watch.receives(message, self._version)
        return message


class _Writing(_Over["WriteStream[SessionMessage]"]):
    def __init__(self, inner: WriteStream[SessionMessage], watch: ToolWatch) -> None:
        super().__init__(inner)
        self._watch = watch

    async def send(self, item: SessionMessage, /) -> None:
        self._watch.sends(item)
        await self._inner.send(item)

"""Programs of this machine as MCP servers: one message a line (MCP, "Transports", stdio).

Not the SDK's own transport, which reads lines of any length into memory, and whose programs may
outlive a server that is killed (`keeper` sees to that).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from lmnb.server.mcp import keeper
from lmnb.server.mcp.faults import NO_COMMAND, Fault, Report
from lmnb.server.mcp.servers import Local

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage

_log = logging.getLogger(__name__)

MOST_BYTES = 64 << 20
"""Of one line, so that no program fills the memory."""
_CHUNK = 1 << 16
_KEEPER = (sys.executable, "-I", "-S", str(Path(keeper.__file__)))
_FLUSH_PATIENCE = 0.5
"""Seconds for the program to read what was written before its input ends."""
_POLL = 0.01
_END_PATIENCE = 6.0
"""Seconds for the program to end; its keeper kills it before."""


@asynccontextmanager
async def stdio(place: Local, report: Report) -> AsyncGenerator[TransportStreams, None]:
    """The SDK's transport to a program, which runs for as long as the block lasts.

    `report` is told if the program ends by itself, or says something that cannot be taken.

    Raises
    ------
    OSError
        Its folder does not exist.
    """
    process = await _start(place)
    received: tuple[Any, Any] = anyio.create_memory_object_stream(0)
    sent: tuple[Any, Any] = anyio.create_memory_object_stream(0)
    reading = asyncio.create_task(_read(process, received[0], report))
    writing = asyncio.create_task(_write(process, sent[1], received[0]))
    try:
        yield received[1], sent[0]
    finally:
        with anyio.CancelScope(shield=True):
            received[1].close()  # From now on what it says is read and forgotten.
            await _stop(process)
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            for stream in (*received, *sent):
                stream.close()


async def _start(place: Local) -> Process:
    from mcp.client.stdio import get_default_environment

    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *_KEEPER,
            place.command,
            *place.args,
            stdin=PIPE,
            stdout=PIPE,
            env={**get_default_environment(), **place.env},
            cwd=place.cwd,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Half of a start cannot be undone.
        with contextlib.suppress(OSError):
            await _stop(await starting)
        raise


async def _read(
    process: Process, session: MemoryObjectSendStream[SessionMessage | Exception], report: Report
) -> None:
    assert process.stdout is not None
    try:
        async with session:
            odd = 0
            async for line in _lines(process.stdout):
                if (message := _parsed(line)) is not None:
                    await session.send(message)
                elif line.strip() and (odd := odd + 1) == 1:  # Once: it may go on and on.
                    _log.info("An MCP server said what is no message: %s", line[:200])
            report(Fault(await _how_it_ended(process)))
    except Fault as fault:
        report(fault)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # The session has ended.
    while await process.stdout.read(_CHUNK):
        pass  # A program that cannot write would not end.


async def _lines(stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    parts: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*parts, line])
            parts.clear()
            size = 0
        parts.append(rest)
        size += len(rest)
        if size > MOST_BYTES:
            raise Fault(f"it sent a line of more than {MOST_BYTES >> 20} MiB.")


def _parsed(line: bytes) -> SessionMessage | None:
    """None for what is no message, such as the greetings that some programs print."""
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    try:
        text = line.decode(errors="replace")
        return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
    except ValueError:
        return None


async def _write(
    process: Process,
    session: MemoryObjectReceiveStream[SessionMessage],
    answers: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    assert process.stdin is not None
    try:
        async with session:
            async for each in session:
                text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(f"{text}\n".encode(errors="replace"))
                await process.stdin.drain()
    except (OSError, anyio.ClosedResourceError):
        answers.close()  # Nothing of what is asked can be answered any more.


async def _how_it_ended(process: Process) -> str:
    await _ended(process, 1.0)
    if process.returncode == keeper.NO_COMMAND:
        return NO_COMMAND
    status = "" if process.returncode is None else f" with exit status {process.returncode}"
    return f"its program has ended{status}."


async def _stop(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.stdin.wait_closed(), _FLUSH_PATIENCE)
    except (TimeoutError, OSError):
        process.stdin.transport.abort()
    await _ended(process, _END_PATIENCE)
    # asyncio keeps the pipes open for as long as anybody has the other end; nothing public ends it.
    transport: Any = vars(process)["_transport"]
    transport.close()


async def _ended(process: Process, patience: float) -> None:
    """Not by `wait`, which also waits for whoever has inherited the program's output."""
    for _ in range(round(patience / _POLL)):
        if process.returncode is not None:
            return
        await asyncio.sleep(_POLL)

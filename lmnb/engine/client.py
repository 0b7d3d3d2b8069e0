"""The handle of a worker process, for the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
import psutil

from lmnb.engine import causes
from lmnb.engine.config import LoadConfig, ModelInfo
from lmnb.engine.options import Segment, Truncate
from lmnb.engine.protocol import (
    Abort,
    Chunk,
    Chunked,
    ChunkUnit,
    Command,
    Count,
    Counted,
    Delta,
    Embed,
    Embedded,
    End,
    Failed,
    Fits,
    Generate,
    Load,
    LoadProgress,
    Memory,
    Ping,
    Pong,
    PrefixFolder,
    Proceed,
    Progress,
    Ranked,
    Ready,
    Reply,
    Rerank,
    Span,
    Step,
    Tokenize,
    Tokenized,
)
from lmnb.engine.recorder import Recorder, make_page
from lmnb.errors import EngineCrashed, LmnbError, ModelUnloaded

Update: TypeAlias = Progress | Delta | End
_Item: TypeAlias = Update | Embedded | Ranked | Tokenized | Chunked | Counted | Pong | LmnbError
_R = TypeVar("_R", Embedded, Ranked, Tokenized, Chunked, Counted, Pong)

_log = logging.getLogger(__name__)

_MODULE = "lmnb.engine.worker"
_STOP_SECONDS = 5.0
_OOM_SECONDS = 60.0
"""A process that was killed needs a while to go, the longer the more memory it has."""


@dataclass(frozen=True)
class Room:
    """What makes room for a model: `make` gives `memory` back."""

    memory: Memory
    make: Callable[[], Awaitable[None]]


class Worker:
    """One worker process and the model it has loaded. Made by `start`.

    `answered` counts the generations and embeddings that have come to their end.
    """

    info: ModelInfo

    def __init__(self, process: _Process, on_progress: Callable[[float], None]) -> None:
        self.answered = 0
        self._process = process
        self._on_progress = on_progress
        self._ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._fits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[LmnbError | None] = asyncio.get_running_loop().create_future()
        self._queues: dict[int, asyncio.Queue[_Item]] = {}
        self._labels: dict[int, str] = {}
        self._next_id = 0
        self._stopping = False
        self._gone = False
        self._death: LmnbError | None = None
        self._channel: _Channel | None = None

    @classmethod
    async def start(
        cls,
        path: Path,
        config: LoadConfig,
        *,
        log: Path | None = None,
        on_progress: Callable[[float], None] | None = None,
        prefixes: PrefixFolder | None = None,
        room: Room | None = None,
        only_vocabulary: bool = False,
    ) -> Worker:
        """Start a process and load the model at `path`. Cancelling this cancels the load.

        Call it on the main thread: the worker dies with the thread that spawned it. With a folder
        for `prefixes` it finds those of an earlier process again. `room` is made once it is
        known that the model fits then. With `only_vocabulary` it can tokenize, and nothing else.

        Raises
        ------
        InvalidModel, ModelLoadFailed, InvalidRequest
            The file, the memory or the options do not allow it.
        EngineCrashed
            The process died while loading.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = _Process(theirs, log)
        worker = cls(process, on_progress or (lambda _fraction: None))
        try:
            _, worker._channel = await asyncio.get_running_loop().create_connection(
                lambda: _Channel(worker._receive, worker._lost), sock=ours
            )
            promised = room.memory if room else None
            worker._send(Load(str(path), config, prefixes, only_vocabulary, promised))
            if room is not None and await worker._is_to_fit():
                await room.make()
                worker._send(Proceed())
            worker.info = await worker._ready
        except BaseException:
            worker._stopping = True
            worker._ready.cancel()
            process.kill()
            if worker._channel is None:  # nothing tells of its end
                ours.close()
                worker._lost()
            await worker.wait_closed()
            raise
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def memory(self) -> int:
        """Resident set now, in bytes; that after the load if the process is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return self.info.memory

    @property
    def log(self) -> Path | None:
        """Where its output goes."""
        return self._process.log

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests; False as soon as its end is noticed."""
        return not (self._gone or self._stopping or self._death)

    async def generate(self, command: Generate, *, label: str = "") -> AsyncGenerator[Update, None]:
        """Run a generation; `command.id` is filled in here. The last update is an `End`.

        `label`, here and below, is what the report of a crash calls the request.

        Closing the generator, or cancelling the task that reads it, aborts the generation in the
        engine at once.

        Raises
        ------
        ContextOverflow, InvalidRequest, NotSupported
            The request cannot be run by this model.
        EngineCrashed, ModelUnloaded
            The worker ended meanwhile. `EngineCrashed.suspect` tells whether in the midst of this.
        """
        request, queue = self._open(label)
        try:
            self._send(msgspec.structs.replace(command, id=request))
            while True:
                item = await queue.get()
                if isinstance(item, LmnbError):
                    raise item
                assert isinstance(item, Progress | Delta | End)
                yield item
                if isinstance(item, End):
                    return
        finally:
            self._close(request, abort=True)

    async def embed(
        self,
        inputs: Sequence[str | tuple[int, ...]],
        *,
        truncate: Truncate = False,
        normalize: bool = True,
        priority: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
        label: str = "",
    ) -> Embedded:
        """Embed texts; see `Embed` and `Embedded`. Cancelling aborts.

        `on_progress` is told a few times a second how many texts of how many are done.
        """
        command = Embed(
            id=0,
            inputs=tuple(inputs),
            truncate=truncate,
            normalize=normalize,
            priority=priority,
        )
        return await self._call(command, Embedded, on_progress, label)

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        truncate: Truncate = False,
        priority: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
        label: str = "",
    ) -> Ranked:
        """Score documents; see `Rerank` and `Ranked`. Cancelling aborts."""
        command = Rerank(
            id=0, query=query, documents=tuple(documents), truncate=truncate, priority=priority
        )
        return await self._call(command, Ranked, on_progress, label)

    async def tokenize(
        self, segments: Sequence[Segment], *, add_bos: bool = True
    ) -> tuple[int, ...]:
        """Token ids of a prompt, without waiting behind generations."""
        command = Tokenize(id=0, segments=tuple(segments), add_bos=add_bos)
        return (await self._call(command, Tokenized)).tokens

    async def chunk(
        self, texts: Sequence[str], size: int, *, overlap: int = 0, unit: ChunkUnit = "tokens"
    ) -> tuple[tuple[Span, ...], ...]:
        """The chunks of each text; see `Chunk`."""
        command = Chunk(id=0, texts=tuple(texts), size=size, overlap=overlap, unit=unit)
        return (await self._call(command, Chunked)).spans

    async def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """The tokens of each text; see `Count`."""
        return (await self._call(Count(id=0, texts=tuple(texts)), Counted)).tokens

    async def ping(self) -> Pong:
        """What the engine is doing now."""
        return await self._call(Ping(0), Pong)

    async def stop(self) -> None:
        """End the process. Requests that are running fail with `ModelUnloaded`."""
        self._stopping = True
        if self._channel is not None:
            self._channel.close()
        try:
            await asyncio.wait_for(self.wait_closed(), _STOP_SECONDS)
        except TimeoutError:  # stopped, or deep in a driver
            self._process.kill()
            await self.wait_closed()

    async def wait_closed(self) -> LmnbError | None:
        """Wait until the process is gone; the error, if it was not asked to go."""
        return await asyncio.shield(self._closed)

    # --- inside ------------------------------------------------------------------

    def _open(self, label: str) -> tuple[int, asyncio.Queue[_Item]]:
        if self._death is not None:
            raise _told(self._death, suspect=False)
        if not self._queues:
            self._process.count_oom_kills()
        self._next_id += 1
        queue = self._queues[self._next_id] = asyncio.Queue()
        self._labels[self._next_id] = label
        return self._next_id, queue

    def _close(self, request: int, *, abort: bool) -> None:
        self._labels.pop(request, None)
        if self._queues.pop(request, None) is not None and abort and self._death is None:
            self._send(Abort(request))

    async def _call(
        self,
        command: Embed | Rerank | Tokenize | Chunk | Count | Ping,
        kind: type[_R],
        on_progress: Callable[[int, int], None] | None = None,
        label: str = "",
    ) -> _R:
        request, queue = self._open(label)
        answered = False
        try:
            self._send(msgspec.structs.replace(command, id=request))
            while isinstance(item := await queue.get(), Progress):
                if on_progress is not None:
                    on_progress(item.done, item.total)
            answered = True
            if isinstance(item, LmnbError):
                raise item
            assert isinstance(item, kind)
            return item
        finally:
            self._close(request, abort=not answered)

    async def _is_to_fit(self) -> bool:
        """Wait until the worker says so, or is `_ready` with the reason why not."""
        either: set[asyncio.Future[Any]] = {self._fits, self._ready}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self._fits.done()

    def _send(self, command: Command) -> None:
        assert self._channel is not None
        self._channel.send(command)

    def _receive(self, reply: Reply) -> None:
        if isinstance(reply, Step):
            updates: tuple[Update, ...] = (*reply.progress, *reply.deltas, *reply.ends)
            for update in updates:
                self._deliver(update.id, update)
                if isinstance(update, End):
                    self.answered += update.reason != "aborted"
                    self._queues.pop(update.id, None)
        elif isinstance(reply, LoadProgress):
            self._on_progress(reply.progress)
        elif isinstance(reply, Fits):
            if not self._fits.done():
                self._fits.set_result(None)
        elif isinstance(reply, Ready):
            if not self._ready.done():
                self._ready.set_result(reply.info)
        elif isinstance(reply, Failed) and reply.id == 0:
            self._death = LmnbError.from_dict(reply.error)
        elif isinstance(reply, Failed):
            self._deliver(reply.id, LmnbError.from_dict(reply.error))
            self._queues.pop(reply.id, None)
        elif isinstance(reply, (Embedded, Ranked, Tokenized, Chunked, Counted, Pong)):
            self.answered += isinstance(reply, Embedded | Ranked)
            self._deliver(reply.id, reply)

    def _deliver(self, request: int, item: _Item) -> None:
        queue = self._queues.get(request)
        if queue is not None:
            queue.put_nowait(item)

    def _lost(self) -> None:
        """The socket is closed: find out why, and tell everyone who waits."""
        if self._gone:
            return
        self._gone = True
        task = asyncio.get_running_loop().create_task(self._bury())
        task.add_done_callback(lambda done: done.exception())

    async def _bury(self) -> None:
        suspects, cause = await asyncio.to_thread(self._process.end)
        if self._stopping:
            self._death = ModelUnloaded("The model was unloaded.")
        elif self._death is None:
            self._death = cause
        if isinstance(self._death, EngineCrashed):
            report = self._report(self._death, suspects)
            _log.error("%s", report)
            if self.log is not None:
                await asyncio.to_thread(self._process.write, report)
                hint = f"{self._death.hint} " if self._death.hint else ""
                self._death.hint = f"{hint}Its log: {self.log}"
        if not self._ready.done():
            self._ready.set_exception(self._death)
        for request, queue in self._queues.items():
            queue.put_nowait(_told(self._death, suspect=request in suspects))
        self._queues.clear()
        self._closed.set_result(None if self._stopping else self._death)

    def _report(self, death: EngineCrashed, suspects: frozenset[int]) -> str:
        """One line on a crash: why, and which requests it was busy with."""
        labels = {request: label for request, label in self._labels.items() if label}
        working = [label for request, label in labels.items() if request in suspects]
        others = [label for request, label in labels.items() if request not in suspects]
        return (
            f"Process {self.pid}: {death.message} Requests that were computed: "
            f"{' '.join(working) or 'none'}; others: {' '.join(others) or 'none'}"
        )


def _told(error: LmnbError, *, suspect: bool) -> LmnbError:
    """A copy for one request, since raising an error writes into it."""
    copy = LmnbError.from_dict(error.to_dict())
    if isinstance(copy, EngineCrashed):
        copy.suspect = suspect
    return copy


class _Channel(asyncio.Protocol):
    """Length-prefixed msgpack over the socket."""

    def __init__(self, received: Callable[[Reply], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._encoder = msgspec.msgpack.Encoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, as uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start, size = 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while size - start >= 4:
                (length,) = struct.unpack_from("!I", view, start)
                end = start + 4 + length
                if end > size:
                    break
                self._received(self._decoder.decode(view[start + 4 : end]))
                start = end
        del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost()

    def send(self, command: Command) -> None:
        """Send one message; after the end it goes nowhere, and `connection_lost` tells why."""
        if self._transport is not None and not self._transport.is_closing():
            data = self._encoder.encode(command)
            self._transport.write(struct.pack("!I", len(data)) + data)

    def close(self) -> None:
        """Close the socket, which ends the worker."""
        if self._transport is not None:
            self._transport.abort()


class _Process:
    """A fresh interpreter, never a fork: OpenMP and CUDA do not survive one."""

    def __init__(self, theirs: socket.socket, log: Path | None) -> None:
        self.log = log
        self._log_start = log.stat().st_size if log is not None and log.exists() else 0
        self._oom_kills = self._oom_kills_before = causes.oom_kills()
        self._counted = time.monotonic()
        with ExitStack() as stack:
            page = stack.enter_context(make_page())
            output = stack.enter_context(log.open("ab")) if log is not None else None
            self._recorder = Recorder(page.fileno())
            descriptors = [theirs.fileno(), page.fileno()]
            self._popen = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=output or subprocess.DEVNULL,
                stderr=output or subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        self.pid = self._popen.pid

    def count_oom_kills(self) -> None:
        """Look now and then, so that long after a kill the next one is not taken for it."""
        if time.monotonic() - self._counted > _OOM_SECONDS:
            self._counted = time.monotonic()
            self._oom_kills_before, self._oom_kills = self._oom_kills, causes.oom_kills()

    def write(self, line: str) -> None:
        """Add a line to its log, if it has one that can be written."""
        if self.log is not None:
            with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()

    def end(self) -> tuple[frozenset[int], EngineCrashed]:
        """Wait for the end, with force if need be: what was being computed, and why it ended."""
        status = self._wait()
        suspects = self._recorder.read()
        self._recorder.close()
        now, before = causes.oom_kills(), self._oom_kills_before
        risen = None if now is None or before is None else now - before
        text = causes.log_since(self.log, self._log_start)
        return suspects, causes.cause(status, text, oom_kills=risen)

    def _wait(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(_STOP_SECONDS)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(_STOP_SECONDS)
        return None

"""The worker process: `python -m lmnb.engine.worker SOCKET PAGE`, two descriptors.

Threads: the main thread owns llama.cpp and runs the engine's steps. The reading thread takes
messages off the socket, answers pings, and otherwise only appends to a queue or sets a flag. The
preparing thread (`preparing`) tokenizes and does whatever else a request needs before it is queued.
A fourth sleeps, and looks once a second whether a step has become too long (`watch`). End of file
on the socket, or the parent's death, ends the process: no orphan keeps memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import itertools
import os
import signal
import sys
import threading
import traceback
from collections import deque
from pathlib import Path
from time import sleep
from typing import NoReturn

import psutil

from lmnb.engine import native
from lmnb.engine.channel import Channel
from lmnb.engine.chunking import chunked, counted
from lmnb.engine.embed import Pooler
from lmnb.engine.generator import Generator
from lmnb.engine.loading import Engine, load
from lmnb.engine.preparing import Preparer
from lmnb.engine.protocol import (
    Abort,
    Chunk,
    Command,
    Count,
    Failed,
    Load,
    Ping,
    Pong,
    Ready,
    Tokenize,
    Tokenized,
)
from lmnb.engine.recorder import Recorder
from lmnb.engine.watch import TICK, Watch
from lmnb.errors import EngineCrashed, EngineStuck, LmnbError, ModelLoadFailed, NotSupported

_REST = 5.0
"""Idle seconds after which what can wait is done."""
_STEPS_BETWEEN_COLLECTIONS = 5000
_OOM_SCORE = 300
"""Added to what the out-of-memory killer thinks of this process (0 to 1000), so that it takes a model
before the server or a notebook with hours of work in it."""


class Worker:
    """Joins the threads: an inbox, and a condition that says it is not empty."""

    def __init__(self, channel: Channel, recorder: Recorder) -> None:
        self.channel = channel
        self.recorder = recorder
        self.watch = Watch(recorder)
        self.engine: Engine | None = None
        self.preparer = Preparer(self._prepare, self._put, recorder)
        self._inbox: deque[tuple[Command, object]] = deque()
        self._not_empty = threading.Condition()

    # --- the reading thread --------------------------------------------------------

    def read_forever(self, engine: Engine) -> None:
        """Serve messages until the other side is gone."""
        while (command := self.channel.receive()) is not None:
            if isinstance(command, Ping):
                running, waiting, cells = engine.counts()
                memory = psutil.Process().memory_info().rss
                self.channel.send(Pong(command.id, memory, running, waiting, cells))
            elif not isinstance(command, Abort):
                self.preparer.put(command)
            elif not self.preparer.cancel(command.id):
                # In this order: who wakes up from the interrupt has to find the command.
                self._put(command, None)
                engine.interrupt(command.id)
        # Without interpreter shutdown: the main thread may be deep inside llama.cpp.
        os._exit(0)

    def _put(self, command: Command, prompt: object) -> None:
        with self._not_empty:
            self._inbox.append((command, prompt))
            self._not_empty.notify()

    # --- the preparing thread --------------------------------------------------------

    def _prepare(self, command: Command) -> object | None:
        """What the engine needs of a request; None if it has been answered."""
        try:
            assert self.engine is not None
            return self._prepared(command, self.engine)
        except LmnbError as error:
            self.channel.send(Failed(command.id, error.to_dict()))  # type: ignore[union-attr]
        except BaseException as error:  # noqa: BLE001  (Rust's panics are no Exceptions; the thread goes on)
            text = f"The worker could not take the request: {error!r}."
            self.channel.send(Failed(command.id, LmnbError(text).to_dict()))  # type: ignore[union-attr]
        return None

    def _prepared(self, command: Command, engine: Engine) -> object | None:
        if isinstance(command, Tokenize):
            if isinstance(engine, Generator):
                tokens, _ = engine.tokenize(command.segments, add_bos=command.add_bos)
            else:
                tokens = engine.model.tokenize(command.segments, add_bos=command.add_bos)
            self.channel.send(Tokenized(command.id, tuple(tokens.tolist())))
            return None
        if isinstance(command, Chunk):
            self.channel.send(chunked(engine.model, command))
            return None
        if isinstance(command, Count):
            self.channel.send(counted(engine.model, command))
            return None
        if isinstance(command, engine.command):
            prepared: object = engine.prompt(command)
            return prepared
        can = engine.can if isinstance(engine, Pooler) else "generates text only"
        raise NotSupported(f"This model {can}.", param="model")

    # --- the main thread -------------------------------------------------------------

    def run(self) -> None:
        """Load, then step for ever. A failure that is nobody's request is told, and ends the process."""
        engine = self._load()
        self.preparer.start()
        threading.Thread(target=self.read_forever, args=(engine,), daemon=True).start()
        threading.Thread(target=self.watch_forever, args=(engine,), daemon=True).start()
        # The model's objects live as long as the process: keep the collector off them, and run it
        # when nobody waits for a token, or at long intervals, since ctypes leaves cycles behind.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._step_forever(engine)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self._die(_as_crash(error))

    def _step_forever(self, engine: Engine) -> None:
        for step in itertools.count(1):
            self._drain(engine)
            if engine.busy:
                self.watch.begin()
                replies = engine.step()
                self.watch.end()
                for reply in replies:
                    self.channel.send(reply)
                if step % _STEPS_BETWEEN_COLLECTIONS == 0:
                    gc.collect()
            else:
                gc.collect()
                self._wait(_REST)
                while not self._inbox and engine.tidy():
                    pass
                self._wait(None)

    def _wait(self, seconds: float | None) -> None:
        """Until there is something to do, at most so long."""
        with self._not_empty:
            self._not_empty.wait_for(lambda: self._inbox, seconds)

    def _die(self, error: LmnbError) -> NoReturn:
        """Say why, and end the process without waiting for any other thread."""
        self.channel.send(Failed(0, error.to_dict()))
        os._exit(1)

    def _drain(self, engine: Engine) -> None:
        while self._inbox:
            command, prompt = self._inbox.popleft()
            if isinstance(command, Abort):
                engine.abort(command.id)
            else:
                engine.submit(command, prompt)

    def _load(self) -> Engine:
        command = self.channel.receive()
        if not isinstance(command, Load):
            sys.exit(2)
        try:
            native.init(self._last_words)
            engine, info = load(command, self.channel, self.watch)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self._die(_as_crash(error))
        self.engine = engine
        self.channel.send(Ready(info))
        return engine

    # --- the watching thread -----------------------------------------------------------

    def watch_forever(self, engine: Engine) -> None:
        """Break off steps that do not end; the process, if that does not help."""
        while True:
            sleep(TICK)
            verdict = self.watch.tick()
            if self.preparer.is_stuck():
                faulthandler.dump_traceback()
                self._die(EngineStuck("A request was being prepared without end. It was given up."))
            if verdict == "abort":
                engine.give_up()
            elif verdict == "kill":
                faulthandler.dump_traceback()
                self._die(self.watch.last_words())

    # --- the end -------------------------------------------------------------------------

    def _last_words(self, text: str) -> None:
        self.recorder.failing()
        cause = text.strip().splitlines()[0] if text.strip() else "an unknown assertion"
        kind: type[LmnbError]
        error: LmnbError = EngineCrashed(f"llama.cpp stopped the model's process: {cause}")
        if native.OUT_OF_MEMORY.search(text):
            kind, what = EngineCrashed, "go on"
            if self.engine is None:
                kind, what = ModelLoadFailed, "load the model"
            error = kind(
                f"There is not enough memory to {what} ({cause}).",
                hint="Load it with a smaller context_length, or unload another model.",
            )
        self.channel.send(Failed(0, error.to_dict()))


def _as_crash(error: Exception) -> LmnbError:
    if isinstance(error, LmnbError):
        return error
    if isinstance(error, MemoryError):
        return EngineCrashed("The model's process ran out of memory.")
    return EngineCrashed(f"The engine failed: {error!r}.")


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that spawned it dies, busy or stopped."""
    if sys.platform == "linux":
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _die_before_others() -> None:
    """Where memory runs out, Linux ends the process of the highest score. Raising it is allowed."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(1000, int(score.read_text()) + _OOM_SCORE)))


def main() -> None:
    """Entry point."""
    _die_with_parent()
    _die_before_others()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    Worker(Channel(int(sys.argv[1])), Recorder(int(sys.argv[2]))).run()


if __name__ == "__main__":
    main()

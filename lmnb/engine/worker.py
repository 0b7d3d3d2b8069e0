"""The worker process: `python -m lmnb.engine.worker SOCKET PAGE`, two descriptors.

Threads: the main thread owns llama.cpp and runs the engine's steps. The reading thread takes
messages off the socket, tokenizes, answers pings, and otherwise only appends to the inbox or sets
a flag. A third sleeps, and looks once a second whether a step has become too long (`watch`). End of
file on the socket, or the parent's death, ends the process: no orphan keeps memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import itertools
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ClassVar, Literal, NoReturn, Protocol

import msgspec
import psutil

from lmnb.engine import native
from lmnb.engine.adapters import Adapters
from lmnb.engine.embed import Embedder, Pooler
from lmnb.engine.estimate import fit
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import RANK, read_header
from lmnb.engine.model import Model
from lmnb.engine.protocol import (
    Abort,
    Command,
    Embed,
    Estimate,
    Failed,
    Generate,
    Load,
    LoadConfig,
    LoadProgress,
    ModelInfo,
    Ping,
    Pong,
    Ready,
    Reply,
    Rerank,
    Tokenize,
    Tokenized,
)
from lmnb.engine.recorder import Recorder
from lmnb.engine.rerank import Reranker
from lmnb.engine.spill import open_disk
from lmnb.engine.watch import TICK, Watch
from lmnb.errors import EngineCrashed, LmnbError, ModelLoadFailed, NotSupported

_KINDS: dict[type, Literal["llm", "embedding", "reranker"]] = {
    Generate: "llm",
    Embed: "embedding",
    Rerank: "reranker",
}
_PROGRESS_INTERVAL = 0.05
_REST = 5.0
"""Idle seconds after which what can wait is done."""
_STEPS_BETWEEN_COLLECTIONS = 5000
_OOM_SCORE = 300
"""Added to what the out-of-memory killer thinks of this process (0 to 1000), so that it takes a model
before the server or a notebook with hours of work in it."""


class Engine(Protocol):
    """What both kinds of engine look like from here. `command` is what they serve."""

    command: ClassVar[type[Generate | Embed | Rerank]]
    model: Model
    context_length: int
    batch_size: int
    parallel: int
    threads: int
    adapters: Adapters
    swa_full: bool
    cache_ram: int

    def prompt(self, command: Any) -> Any:
        """Tokenize; called by the reading thread."""

    def submit(self, command: Any, prompt: Any) -> None:
        """Queue."""

    def abort(self, request: int) -> None:
        """Drop."""

    def interrupt(self, request: int) -> None:
        """Break off a forward pass; called by the reading thread."""

    def give_up(self) -> None:
        """Break off the forward pass, whosever it is; called by the watching thread."""

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""

    def tidy(self) -> bool:
        """What can wait until nothing else is to be done, piece by piece."""

    def counts(self) -> tuple[int, int, int]:
        """Running, waiting, cached tokens."""

    def step(self) -> list[Reply]:
        """One forward pass."""


class Channel:
    """Length-prefixed msgpack over the socket. Sending is thread-safe."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._reader = self._socket.makefile("rb", buffering=1 << 16)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Command)
        self._lock = threading.Lock()

    def send(self, reply: Reply) -> None:
        """Send one message; if nobody listens any more, the process ends."""
        data = self._encoder.encode(reply)
        try:
            with self._lock:
                self._socket.sendall(struct.pack("!I", len(data)) + data)
        except OSError:
            os._exit(0)

    def receive(self) -> Command | None:
        """The next message; None at the end."""
        prefix = self._reader.read(4)
        if len(prefix) < 4:
            return None
        (size,) = struct.unpack("!I", prefix)
        data = self._reader.read(size)
        return self._decoder.decode(data) if len(data) == size else None


class Worker:
    """Joins the two threads: an inbox, and a condition that says it is not empty."""

    def __init__(self, channel: Channel, recorder: Recorder) -> None:
        self.channel = channel
        self.recorder = recorder
        self.watch = Watch(recorder)
        self.engine: Engine | None = None
        self._inbox: deque[tuple[Command, object]] = deque()
        self._not_empty = threading.Condition()

    # --- the reading thread --------------------------------------------------------

    def read_forever(self) -> None:
        """Serve messages until the other side is gone."""
        while (command := self._receive()) is not None:
            self.recorder.tokenizing(getattr(command, "id", 0))
            try:
                self._accept(command)
            except LmnbError as error:
                self.channel.send(Failed(command.id, error.to_dict()))  # type: ignore[union-attr]
            except Exception as error:  # noqa: BLE001  (a bad request must not end the thread)
                text = f"The worker could not take the request: {error!r}."
                self.channel.send(Failed(command.id, LmnbError(text).to_dict()))  # type: ignore[union-attr]
            self.recorder.tokenizing(0)
        # Without interpreter shutdown: the main thread may be deep inside llama.cpp.
        os._exit(0)

    def _receive(self) -> Command | None:
        try:
            return self.channel.receive()
        except (OSError, msgspec.DecodeError):
            return None

    def _accept(self, command: Command) -> None:
        engine = self.engine
        if isinstance(command, Abort):
            if engine is not None:
                # In this order: who wakes up from the interrupt has to find the command.
                self._put(command, None)
                engine.interrupt(command.id)
        elif engine is None:
            raise LmnbError("The model is not loaded yet.")
        elif isinstance(command, Ping):
            running, waiting, cells = engine.counts()
            memory = psutil.Process().memory_info().rss
            self.channel.send(Pong(command.id, memory, running, waiting, cells))
        elif isinstance(command, Tokenize):
            if isinstance(engine, Generator):
                tokens, _ = engine.tokenize(command.segments, add_bos=command.add_bos)
            else:
                tokens = engine.model.tokenize(command.segments, add_bos=command.add_bos)
            self.channel.send(Tokenized(command.id, tuple(tokens.tolist())))
        elif isinstance(command, engine.command):
            self._put(command, engine.prompt(command))
        else:
            can = engine.can if isinstance(engine, Pooler) else "generates text only"
            raise NotSupported(f"This model {can}.", param="model")

    def _put(self, command: Command, prompt: object) -> None:
        with self._not_empty:
            self._inbox.append((command, prompt))
            self._not_empty.notify()

    # --- the main thread -------------------------------------------------------------

    def run(self) -> None:
        """Load, then step for ever. A failure that is nobody's request is told, and ends the process."""
        engine = self._load()
        threading.Thread(target=self.read_forever, daemon=True).start()
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
            if verdict == "abort":
                engine.give_up()
            elif verdict == "kill":
                faulthandler.dump_traceback()
                self._die(self.watch.last_words())

    # --- the end -------------------------------------------------------------------------

    def _last_words(self, text: str) -> None:
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


def load(command: Load, channel: Channel, watch: Watch) -> tuple[Engine, ModelInfo]:
    """Read the model and make it ready, telling the progress."""
    began = monotonic()
    last = 0.0

    def progress(fraction: float) -> None:
        nonlocal last
        if monotonic() - last >= _PROGRESS_INTERVAL or fraction >= 1:
            last = monotonic()
            channel.send(LoadProgress(fraction))

    header = read_header(Path(command.path))
    config, estimate = fit(Path(command.path), header, command.config)
    model = Model.load(command.path, header, config, on_progress=progress)
    engine: Engine
    if header.pooling_type == RANK:
        engine = Reranker(model, config, watch)
    elif header.kind == "embedding":
        engine = Embedder(model, config, watch)
    else:
        engine = Generator(model, config, watch, open_disk(command))
    return engine, _describe(engine, config, estimate, monotonic() - began)


def _describe(engine: Engine, config: LoadConfig, estimate: Estimate, seconds: float) -> ModelInfo:
    model = engine.model
    found = native.devices()
    gpus = [device for device in found if device.type in {"gpu", "igpu"}]
    used = gpus[0] if gpus and model.gpu_layers else found[0]
    final = msgspec.structs.replace(
        config,
        context_length=engine.context_length,
        parallel=engine.parallel,
        eval_batch_size=engine.batch_size,
        gpu_layers=model.gpu_layers,
        experts_on_cpu=estimate.experts_on_cpu,
        threads=engine.threads,
        offload_kv_cache_to_gpu=bool(gpus) and config.offload_kv_cache_to_gpu is not False,
        cache_type_k=config.cache_type_k or "f16",
        cache_type_v=config.cache_type_v or "f16",
        adapters=engine.adapters.loaded,
        swa_full=engine.swa_full,
        cache_ram=engine.cache_ram,
    )
    vision = engine.vision if isinstance(engine, Generator) else None
    return ModelInfo(
        architecture=model.header.architecture,
        kind=_KINDS[engine.command],
        context_length=engine.context_length,
        trained_context_length=model.trained_context_length,
        vocab_size=model.n_vocab,
        embedding_length=model.embedding_length,
        layers=model.layers,
        gpu_layers=model.gpu_layers,
        devices=found,
        device=used.description or used.name,
        chat_templates=model.header.chat_templates,
        bos_text=model.text(model.bos),
        eos_text=model.text(model.eos),
        adds_bos=model.adds_bos,
        sampling=model.author_sampling,
        config=final,
        estimate=estimate,
        memory=psutil.Process().memory_info().rss,
        load_seconds=seconds,
        system_info=native.system_info(),
        sees=vision is not None and vision.sees,
        hears=vision is not None and vision.hears,
    )


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

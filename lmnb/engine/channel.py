"""Length-prefixed msgpack over the worker's socket."""

from __future__ import annotations

import os
import socket
import struct
import threading

import msgspec

from lmnb.engine.protocol import Command, Reply


class Channel:
    """The worker's end. Sending is thread-safe; one thread receives."""

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
        """The next message; None at the end, or when there is no sense in what comes."""
        try:
            prefix = self._reader.read(4)
            if len(prefix) < 4:
                return None
            (size,) = struct.unpack("!I", prefix)
            data = self._reader.read(size)
            return self._decoder.decode(data) if len(data) == size else None
        except (OSError, msgspec.DecodeError):
            return None

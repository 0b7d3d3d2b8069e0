"""Reads safetensors files: a length, a JSON header, raw slices.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmnb.errors import InvalidModel

_MAX_HEADER = 100_000_000  # The limit of the format's own reader.
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class SafetensorsFile:
    """A mapped safetensors file. `names` in the order of the header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise self._damaged("its header is longer than the file")
            try:
                header = json.loads(file.read(length))
            except ValueError:
                raise self._damaged("its header is not JSON") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is not an object")
        header.pop("__metadata__", None)
        self._entries: dict[str, Any] = header
        self._data: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
        self.names = tuple(header)

    def float32(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32, whatever float type it is stored in."""
        entry = self._entries[name]
        try:
            kind, shape = entry["dtype"], [int(n) for n in entry["shape"]]
            start, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise self._damaged(f"its entry for {name} is incomplete") from None
        if kind not in _TYPES:
            raise InvalidModel(f"{self._path.name}: {name} has the type {kind}, not a float type.")
        dtype = np.dtype(_TYPES[kind])
        if not 0 <= start <= end <= len(self._data) or end - start != math.prod(shape) * (
            dtype.itemsize
        ):
            raise self._damaged(f"{name} lies outside of the file")
        raw = self._data[start:end].view(dtype).reshape(shape)
        if kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)

    def _damaged(self, why: str) -> InvalidModel:
        return InvalidModel(f"{self._path.name} is not a usable safetensors file: {why}.")

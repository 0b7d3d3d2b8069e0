"""`--image`: files, addresses and variables as pictures that can be sent."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmnb.errors import InvalidRequest
from lmnb.notebook.turns import Picture

_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
_KINDS = "PNG, JPEG, GIF and BMP"
_PATIENCE = 30.0  # Seconds for a picture to come from the network.


def load(name: str, variables: Mapping[str, Any]) -> Picture:
    """The picture that `name` stands for: a variable of the notebook, a file, or an address.

    A variable may hold bytes, a path, a picture of Pillow or IPython, a figure or axes of
    matplotlib, or an array: (height, width), (height, width, 3) or (height, width, 4), integers of
    0 to 255 or floats of 0 to 1.

    Raises
    ------
    InvalidRequest
        There is no such picture, or it is none.
    """
    if name in variables:
        return _of_value(name, variables[name])
    if name.startswith(("http://", "https://")):
        return _of_bytes(name, _fetched(name))
    path = Path(name).expanduser()
    if not path.is_file():
        raise InvalidRequest(
            f"--image {name}: there is neither a variable nor a file of that name.",
            hint="Give the name of a variable, a path from the notebook's folder, or an address.",
        )
    return _of_bytes(name, path.read_bytes())


def _of_value(name: str, value: Any) -> Picture:
    if isinstance(value, bytes | bytearray | memoryview):
        return _of_bytes(name, bytes(value))
    if isinstance(value, str | Path):
        return load(str(value), {})
    if hasattr(value, "__array__") and hasattr(value, "shape") and not hasattr(value, "columns"):
        return Picture("image/png", _png(name, value))
    for write in (_saved_figure, _saved_picture, _shown_png):
        if (data := write(value)) is not None:
            return _of_bytes(name, data)
    raise InvalidRequest(
        f"--image {name}: the variable is of the type {type(value).__name__}, not a picture.",
        hint="Bytes, paths, arrays, pictures of Pillow and figures of matplotlib are.",
    )


def _of_bytes(name: str, data: bytes) -> Picture:
    for beginning, media_type in _BEGINNINGS.items():
        if data.startswith(beginning):
            return Picture(media_type, data)
    raise InvalidRequest(f"--image {name}: this is no picture of a known kind ({_KINDS}).")


def _fetched(address: str) -> bytes:
    """The notebook fetches it, as its user may: the server fetches nothing, for nobody."""
    import httpx2

    try:
        response = httpx2.get(address, follow_redirects=True, timeout=_PATIENCE)
        response.raise_for_status()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise InvalidRequest(f"--image {address} could not be fetched: {error}") from None
    return response.content


def _saved_figure(value: Any) -> bytes | None:
    """Figures of matplotlib, and its axes."""
    figure: Any = value if hasattr(value, "savefig") else getattr(value, "figure", None)
    if not hasattr(figure, "savefig"):
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def _saved_picture(value: Any) -> bytes | None:
    """Pictures of Pillow. Modes that PNG lacks (CMYK, for one) are converted."""
    save, mode = getattr(value, "save", None), getattr(value, "mode", None)
    if save is None or not isinstance(mode, str):
        return None
    if mode not in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}:
        save = value.convert("RGB").save
    buffer = io.BytesIO()
    save(buffer, "PNG")
    return buffer.getvalue()


def _shown_png(value: Any) -> bytes | None:
    """What shows itself in a notebook as a picture, such as `IPython.display.Image`."""
    data = getattr(value, "data", None)
    if isinstance(data, bytes):
        return data
    show: Callable[[], Any] | None = getattr(value, "_repr_png_", None)
    shown = show() if show is not None else None
    return shown if isinstance(shown, bytes) else None


def _png(name: str, value: Any) -> bytes:
    """An array as a PNG file."""
    import numpy as np

    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    colours = {2: 0, 3: 2, 4: 6}.get(pixels.ndim if pixels.ndim == 2 else pixels.shape[-1])
    if pixels.ndim not in {2, 3} or colours is None or not pixels.size:
        raise InvalidRequest(
            f"--image {name}: an array of the shape {pixels.shape} is no picture.",
            hint="(height, width), (height, width, 3) and (height, width, 4) are.",
        )
    if pixels.dtype.kind in "fb":
        pixels = np.nan_to_num(pixels.astype(float)) * 255
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(rows)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

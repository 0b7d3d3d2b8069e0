"""Finds the file with a model's encoder for images and sounds."""

from __future__ import annotations

from pathlib import Path

_PREFERENCE = ("f16", "bf16", "q8_0", "f32")


def find_projector(model: Path) -> Path | None:
    """The projector file beside a model: `mmproj*.gguf` in its folder."""
    try:
        found = [path for path in model.parent.iterdir() if is_projector(path.name)]
    except OSError:
        return None
    return min(found, key=lambda path: projector_rank(path.name), default=None)


def is_projector(name: str) -> bool:
    """Whether a file of that name is one."""
    lower = name.lower()
    return lower.endswith(".gguf") and "mmproj" in lower


def projector_rank(name: str) -> tuple[int, str]:
    """A sort key: of several projectors of a model the best suited one comes first."""
    stem = name.lower().removesuffix(".gguf")
    order = (n for n, kind in enumerate(_PREFERENCE) if stem.endswith(kind))
    return next(order, len(_PREFERENCE)), stem

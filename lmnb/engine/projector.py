"""Finds the file with a model's encoder for images and sounds."""

from __future__ import annotations

from pathlib import Path

_PREFERENCE = ("f16", "bf16", "q8_0", "f32")


def find_projector(model: Path) -> Path | None:
    """The projector file beside a model: `mmproj*.gguf` in its folder."""
    try:
        found = [
            path
            for path in model.parent.iterdir()
            if path.suffix.lower() == ".gguf" and "mmproj" in path.name.lower()
        ]
    except OSError:
        return None

    def rank(path: Path) -> tuple[int, str]:
        name = path.stem.lower()
        order = (n for n, kind in enumerate(_PREFERENCE) if name.endswith(kind))
        return next(order, len(_PREFERENCE)), name

    return min(found, key=rank, default=None)

"""Numbers as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """`98.1 MB`: decimal units, as disks and downloads are labelled."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return (
                f"{count / step:.1f} {unit}" if count < 100 * step else f"{count / step:.0f} {unit}"
            )
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """`8.4 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"

"""Apriel: every answer begins with thinking, which only its end has a marker for."""

from __future__ import annotations

import msgspec

from lmnb.chat.formats.format import Format, Span

_END = "[BEGIN FINAL RESPONSE]"


def recognise(source: str, derived: Format) -> Format | None:
    """The family, if the template asks for its marker and does not show thinking."""
    if derived.thinking is not None or _END not in source:
        return None
    answer = Span("", "[END FINAL RESPONSE]") if "[END FINAL RESPONSE]" in source else None
    thinking = Span("", _END)
    return msgspec.structs.replace(derived, thinking=thinking, answer=answer, family="apriel")

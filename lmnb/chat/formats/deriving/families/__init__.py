"""Families whose templates do not show how the model writes, recognised by what they do write.

Each takes the template's text and what was derived from it, and says what is right for its family;
None: it is none of that family.
"""

from __future__ import annotations

from collections.abc import Callable

from lmnb.chat.formats.deriving.families import apriel, granite, harmony, lfm2
from lmnb.chat.formats.format import Format

Recognise = Callable[[str, Format], Format | None]

RECOGNISERS: tuple[Recognise, ...] = (
    harmony.recognise,
    lfm2.recognise,
    granite.recognise,
    apriel.recognise,
)

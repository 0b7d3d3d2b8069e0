"""Images and sounds of a conversation on their way through a text template.

A template gets one character in the place of each: from plane 16's private use, of which people's
words keep none. Afterwards the medium stands where the character came out. What the model wants to
see around an image is not the template's business but the projector's (`lmnb.engine.vision`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lmnb.chat.conversation import Audio, Document, Image, Part, Text
from lmnb.engine.options import Segment
from lmnb.errors import InvalidRequest

MOST = 1000
"""Images and sounds in a conversation."""
_FIRST = 0x10F000
_MARK = re.compile(f"([{chr(_FIRST)}-{chr(_FIRST + MOST - 1)}])")
_REPLACEMENT = "\ufffd"


class Media:
    """The media of one conversation, numbered as they come."""

    def __init__(self) -> None:
        self._files: list[bytes] = []
        self._shown: set[int] = set()

    def take_out(self, parts: Iterable[Part]) -> str:
        """The text of `parts`, with a character for each medium.

        Raises
        ------
        InvalidRequest
            There are too many.
        """
        pieces = []
        for part in parts:
            assert not isinstance(part, Document), "documents have become text by now"
            if isinstance(part, Text):
                pieces.append(_MARK.sub(_REPLACEMENT, part.text))
            elif isinstance(part, Image | Audio):
                if len(self._files) == MOST:
                    raise InvalidRequest(
                        f"There are more than {MOST} images in the conversation.", param="messages"
                    )
                pieces.append(chr(_FIRST + len(self._files)))
                self._files.append(part.data)
        return "".join(pieces)

    def put_back(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        """The prompt with its media.

        Raises
        ------
        InvalidRequest
            The template has left one out.
        """
        if not self._files:
            return tuple(segments)
        found = tuple(self._restored(segments))
        if len(self._shown) < len(self._files):
            raise InvalidRequest(
                "The model's chat template leaves out an image of the conversation.",
                hint="Put images into messages of the user.",
                param="messages",
            )
        return found

    def _restored(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        for segment in segments:
            for piece in _MARK.split(segment.text):
                if _MARK.fullmatch(piece):
                    number = ord(piece) - _FIRST
                    self._shown.add(number)
                    yield Segment("", media=self._files[number])
                elif piece:
                    yield Segment(piece, special=segment.special)

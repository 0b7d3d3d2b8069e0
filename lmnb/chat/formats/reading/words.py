"""Words up to the next marker."""

from __future__ import annotations

from lmnb.chat.formats.reading.source import Marker, Markers, Reading, Said, Source


class Words:
    """Reads words or thoughts. White space beside a marker belongs to the marker.

    bare
        No marker stands before: white space at the beginning is words.
    past
        Markers before this place are words.
    """

    def __init__(
        self, source: Source, *, bare: bool = False, thinking: bool = False, past: int = 0
    ) -> None:
        self._source = source
        self._bare = bare
        self._thinking = thinking
        self._past = past
        self._marker = 0
        self.said = False
        """Whether there have been any since the last marker."""

    def again(self) -> None:
        """A marker has been read, and words may follow."""
        self._bare = False
        self.said = False

    def not_a_marker(self, past: int = 0) -> None:
        """What `read` took for a marker is words, all up to `past` if that is further on.

        It has not been read.
        """
        self._past = max(self._marker + 1, past)

    def read(self, markers: Markers) -> Reading[Marker | None]:
        """Read words up to a marker, which is not read yet; None: up to the end of the text."""
        source = self._source
        while True:
            if not self._bare and not self.said:
                while source.text[source.at : source.at + 1].isspace():
                    source.at += 1
            start = max(source.at, source.index(self._past))
            index, marker = markers.find(
                source.text, source.at, start=start, said=self.said, ended=source.ended
            )
            words = source.text[source.at : index]
            if marker is not None or self._thinking or (markers and not source.ended):
                words = words.rstrip()
            if words:
                yield Said(words, source.place, self._thinking)
                self.said = True
                source.at += len(words)
            if marker is not None:
                self._marker = source.place + index - source.at
                return marker
            if source.ended:
                return None
            yield None

"""How a text is written where it stands: escaped in a JSON string, or as it is before a mark."""

from __future__ import annotations

from typing import Protocol

from lmnb.chat.formats.forcing.inputs import characters
from lmnb.chat.formats.forcing.inputs.characters import Characters

_SHORT = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


class Writing(Protocol):
    """Which characters are not just written, or begin like what else may stand there."""

    @property
    def special(self) -> Characters:
        """These characters."""

    def one(self, of: Characters, following: Characters) -> str:
        """A regular expression for one of these special characters, as it is written.

        Any number of `following` may come behind it.
        """


class Escaped:
    """In a JSON string, as `json.dumps` writes it: quote, backslash and control characters escaped.

    Control characters without a short escape are written with four digits, in any case. Nothing
    else is escaped.
    """

    special = Characters([(0, 0x1F)]) | characters.of('"\\')

    def one(self, of: Characters, following: Characters) -> str:  # noqa: ARG002
        """As `Writing.one`."""
        short = characters.of("".join(_SHORT.get(char, "") for char in of))
        long = [_any_case(f"{ord(char):02x}") for char in of if char not in _SHORT]
        options = [rf"\\{short.regex()}"] if short else []
        if long:
            options.append(rf"\\u00({'|'.join(long)})")
        return "|".join(options)


class Raw:
    """As it is, up to a mark.

    Parameters
    ----------
    border
        White space before the mark that belongs to it.
    mark
        "" where no text can be the beginning of the mark: control tokens.
    """

    def __init__(self, border: str, mark: str) -> None:
        self._mark = mark
        self.special = characters.of(border + mark[:1])

    def one(self, of: Characters, following: Characters) -> str:
        """As `Writing.one`.

        A beginning of the mark is one lexeme with the character after it that is not the mark's.
        Else who writes `</p` had to write the whole mark where the text may end.
        """
        if not self._mark or self._mark[0] not in of:
            return of.regex()
        begun = ""
        for place in range(len(self._mark) - 1, 0, -1):
            here = self._mark[place]
            other = following - self.special - characters.of(here)
            options = [other.regex()] if other else []
            if here in following and place < len(self._mark) - 1:
                options.append(characters.of(here).regex() + begun)
            begun = f"({'|'.join(options)})?" if options else ""
        return f"{of.regex()}|{characters.of(self._mark[0]).regex()}{begun}"


def _any_case(digits: str) -> str:
    return "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in digits)

"""How a template writes a call's arguments where the call itself is no JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lmnb.chat.formats.deriving.borders import common_prefix, common_suffix
from lmnb.chat.formats.deriving.probe import KEYS, NAMES, VALUES, Probe, call
from lmnb.chat.formats.format import Arguments, DictArguments, JsonArguments, TaggedArguments

NUMBER = 407

_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class WrittenArguments:
    """A way to write arguments, and how to find those of the call `index` in printed text.

    `span(text, index, start)` is where they begin and end, the name of the call ending at `start`;
    None: they are not there.
    """

    form: Arguments
    span: Callable[[str, int, int], tuple[int, int] | None]


def find_arguments(probe: Probe) -> WrittenArguments | None:
    """What the template does, found with single calls; None if it is nothing that is understood."""
    text = probe.turn(calls=(call(0),))
    if (start := text.find(NAMES[0])) < 0:
        return None
    start += len(NAMES[0])
    if _json_span(text, 0, start):
        return WrittenArguments(JsonArguments(), _json_span)
    if (found := _dict(0).search(text, start)) and found[1] != '"':
        return WrittenArguments(DictArguments(quote=found[1]), _dict_span)
    return _tagged(probe)


def _json_span(text: str, index: int, start: int) -> tuple[int, int] | None:
    key = text.find(f'"{KEYS[index]}"', start)
    begin = text.rfind("{", start, key) if key >= 0 else -1
    if begin < 0:
        return None
    try:
        value, end = _JSON.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    return (begin, end) if value == {KEYS[index]: VALUES[index]} else None


def _dict(index: int) -> re.Pattern[str]:
    return re.compile(rf"\{{{KEYS[index]}:(\S+?){VALUES[index]}\1\}}")


def _dict_span(text: str, index: int, start: int) -> tuple[int, int] | None:
    found = _dict(index).search(text, start)
    return found.span() if found else None


# --- tags -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tags:
    """What is printed around two arguments: name BEFORE key KEY_END value BETWEEN … value AFTER."""

    before: str
    key_end: str
    between: str
    after: str


def _tagged(probe: Probe) -> WrittenArguments | None:
    tags = _tags(probe)
    number = _after_name(probe, {KEYS[0]: NUMBER})
    if tags is None or str(NUMBER) not in number:
        return None
    number_end = number[number.find(KEYS[0]) + len(KEYS[0]) : number.find(str(NUMBER))]
    quoted = tags.key_end == number_end + '"'
    key_end, typed = tags.key_end, None
    if quoted:
        key_end = number_end
    elif key_end != number_end:
        key_end = common_prefix((key_end, number_end))
        typed = (tags.key_end[len(key_end) :], number_end[len(key_end) :])
    quote = '"' if quoted else ""
    tags = _Tags(
        tags.before, key_end, tags.between.removeprefix(quote), tags.after.removeprefix(quote)
    )
    parted = _part(tags, _after_name(probe, {}))
    if parted is None:
        return None
    key_begin, value_end = parted
    form = TaggedArguments(
        key_begin=key_begin,
        key_end=key_end,
        value_end=value_end,
        separator=tags.between[len(value_end) : len(tags.between) - len(key_begin)],
        raw_strings=not quoted,
        typed=typed,
    )
    head = len(tags.before) - len(key_begin)

    def span(text: str, index: int, start: int) -> tuple[int, int] | None:
        value = text.find(VALUES[index], start)
        if value < 0:
            return None
        return start + head, value + len(VALUES[index] + quote + value_end)

    return WrittenArguments(form, span)


def _tags(probe: Probe) -> _Tags | None:
    text = _after_name(probe, dict(zip(KEYS, VALUES, strict=True)))
    pieces = []
    for word in (KEYS[0], VALUES[0], KEYS[1], VALUES[1]):
        piece, found, text = text.partition(word)
        if not found:
            return None
        pieces.append(piece)
    return _Tags(pieces[0], pieces[1], pieces[2], text)


def _after_name(probe: Probe, arguments: dict[str, Any]) -> str:
    return probe.turn(calls=(call(0, arguments),)).partition(NAMES[0])[2]


def _part(tags: _Tags, none: str) -> tuple[str, str] | None:
    """What opens a key and what closes a value.

    The two share what stands between arguments; white space there could belong to either, or to
    neither. A call without arguments (`none`: what follows its name) decides.
    """
    opens = common_suffix((tags.between, tags.before))
    closes = common_prefix((tags.between, tags.after))
    first: tuple[str, str] | None = None
    for key_begin, value_end in _choices(opens, closes):
        if len(key_begin) + len(value_end) > len(tags.between):
            continue
        first = first or (key_begin, value_end)
        before = tags.before[: len(tags.before) - len(key_begin)]
        if before + tags.after[len(value_end) :] == none:
            return key_begin, value_end
    return first


def _choices(opens: str, closes: str) -> Iterator[tuple[str, str]]:
    yield opens.lstrip(), closes.rstrip()
    yield opens.lstrip(), closes
    yield opens, closes.rstrip()
    yield opens, closes

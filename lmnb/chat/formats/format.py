"""How a model writes an answer: its thinking, its words, its tool calls. A value, not a parser.

A `Format` is derived from a chat template (`lmnb.chat.formats.deriving.derive`), read by a person
(`lmnb inspect`), and used three times: to split a stream of text into events
(`lmnb.chat.formats.reading.split`), to build the grammar of a forced call (`lmnb.chat.formats.forcing.grammar`),
and to find where thinking ends. Nothing else may know what a family writes.

White space at the borders of markers is kept here as the template writes it, which is what a
grammar should force; readers match markers without it, since models are free with it.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

NAME = "{name}"
ID = "{id}"
INDEX = "{index}"
ARGUMENTS = "{arguments}"
"""Places in `WrittenCall.pieces`."""


class Span(msgspec.Struct, frozen=True):
    """Text between two markers. An empty marker is none: the span reaches to the next thing."""

    begin: str
    end: str


class TaggedArguments(msgspec.Struct, frozen=True, kw_only=True, tag="tagged"):
    """Arguments each between their own tags: `<parameter=KEY>VALUE</parameter>`.

    An argument is `key_begin KEY key_end VALUE value_end`, arguments are joined by `separator`.

    raw_strings
        Strings are written as they are, all other values as JSON. Else every value is JSON.
    typed
        Whether strings or JSON is written in the tag itself: pairs of what stands for a string and
        for any other value, between `key_end` and the value (DeepSeek's `string="true"`).
    """

    key_begin: str
    key_end: str
    value_end: str
    separator: str = ""
    raw_strings: bool = True
    typed: tuple[str, str] | None = None


class JsonArguments(msgspec.Struct, frozen=True, tag="json"):
    """Arguments as one JSON object."""


class DictArguments(msgspec.Struct, frozen=True, kw_only=True, tag="dict"):
    """Arguments as a JSON-like object with bare keys, and strings between marks of their own.

    The braces are part of the arguments. Gemma 4: `{key:<|"|>text<|"|>,n:1}`.
    """

    quote: str


Arguments: TypeAlias = JsonArguments | TaggedArguments | DictArguments


class WrittenCall(msgspec.Struct, frozen=True, kw_only=True, tag="written"):
    """A call as text with places: `<function={name}>{arguments}</function>`.

    pieces
        Literals and the places `NAME`, `ARGUMENTS`, and perhaps `ID` and `INDEX` (from 0), in the
        order in which they are written.
    """

    pieces: tuple[str, ...]
    arguments: Arguments = JsonArguments()


class JsonCall(msgspec.Struct, frozen=True, kw_only=True, tag="json"):
    """A call as one JSON object, in which the name is a value: `{"name": …, "arguments": …}`.

    begin, end
        What stands around the object.
    keys
        Keys on the way to the object that has the name, from outside: `("function",)` for
        `{"type": "function", "function": {"name": …}}`.
    id_key
        Where the call's id is written, beside the name or in the outermost object; None: it is not.
    example
        A call named `NAME` with arguments `ARGUMENTS` (and `ID`), as the template prints it: the
        order of the keys and the white space that a grammar should force.
    """

    begin: str = ""
    end: str = ""
    keys: tuple[str, ...] = ()
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str | None = None
    example: str = ""


class PythonCall(msgspec.Struct, frozen=True, tag="python"):
    """A call as Python writes it: `name(key="text", n=1)`."""


HARMONY_START = "<|start|>assistant"
"""Begins a message of gpt-oss: the first one in the prompt, each further one in the answer."""


class HarmonyCall(msgspec.Struct, frozen=True, tag="harmony"):
    """gpt-oss: messages with a channel and a recipient, `to=functions.name`, before or after it."""


Call: TypeAlias = WrittenCall | JsonCall | PythonCall | HarmonyCall


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """How tool calls are written. They end the turn: at most white space follows.

    begin, separator, end
        Around all the calls of a turn, and between two of them: `[TOOL_CALLS][`, `, `, `]`.
    after_words
        White space between the words, if there are some, and the calls.
    parallel
        Whether several calls in a turn are possible.
    string_arguments
        The template wants the arguments of earlier calls as JSON text, not as a mapping.
    """

    call: Call
    begin: str = ""
    separator: str = ""
    end: str = ""
    after_words: str = ""
    parallel: bool = True
    string_arguments: bool = False


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """How a model writes an answer, in this order: thinking, words, calls; any may be missing.

    thinking
        None: the model does not think. Whether it is already open when the prompt ends is seen from
        the prompt itself. With an empty `begin` every answer begins with thinking (Apriel).
    answer
        What stands around the words for the user, where the family writes anything there.
    calls
        None: the template knows no tools (then lmnb's own prompt and syntax are used,
        `lmnb.chat.formats.default`).
    ends
        What follows a turn in the template: control tokens, by their looks, that end it besides the
        model's own end of generation.
    family
        The file of `lmnb.chat.formats.deriving.families` that made it; "" if it was derived.
    """

    thinking: Span | None = None
    answer: Span | None = None
    calls: Calls | None = None
    ends: tuple[str, ...] = ()
    family: str = ""


def tells(marker: str) -> bool:
    """Whether a marker can be nothing but the beginning of a call: it has a word in it."""
    return re.search(r"\w", marker) is not None

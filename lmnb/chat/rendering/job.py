"""What the server and the rendering process say to each other: length-prefixed msgpack."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from lmnb.chat.conversation import Role, Tool, ToolCall
from lmnb.chat.formats.format import Format
from lmnb.engine.options import Segment


class Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message as templates see it.

    calls
        The assistant's tool calls, said after its words.
    call_id, name
        Of a `tool` turn: the call that it is the result of, and the tool that was called. There is
        a turn for every result.
    """

    role: Role
    content: str
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="render"):
    """Render `turns` with `template`. `arguments` are further variables for the template.

    `continue_final`: the last turn is the assistant's; the prompt ends with its last character.
    """

    template: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    bos_text: str
    eos_text: str
    continue_final: bool
    arguments: dict[str, Any]


class FormatJob(msgspec.Struct, frozen=True, kw_only=True, tag="format"):
    """Derive the `Format` of `template`."""

    template: str
    bos_text: str
    eos_text: str


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    """The prompt."""

    segments: tuple[Segment, ...]


class Derived(msgspec.Struct, frozen=True, tag="derived"):
    """How the model writes."""

    format: Format


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """There is no prompt, or format.

    kind
        `template`: the template said so, by `raise_exception`. `error`: it failed. `output`,
        `memory`: it went beyond a limit; after `memory` the process ends. `late`: it did not finish
        in time, as on a machine that is busy it may another time.
    """

    kind: Literal["template", "error", "output", "memory", "late"]
    message: str


AnyJob: TypeAlias = Job | FormatJob
Outcome: TypeAlias = Rendered | Derived | Refused

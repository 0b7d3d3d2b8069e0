"""What a model can do, read off its file: the chat template tells what its author trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import msgspec
from jinja2 import Environment, TemplateError

from lmnb.chat.conversation import Reasoning
from lmnb.chat.rendering.messages import SWITCHES
from lmnb.engine.gguf import read_header
from lmnb.engine.projector import find_projector
from lmnb.errors import InvalidModel, InvalidRequest
from lmnb.models.entry import ModelEntry
from lmnb.server.lmstudio.schema import ReasoningOption

_JINJA = Environment()  # noqa: S701 (nothing is rendered)
_SPACE = {"whitespace", "comment", "comment_begin", "comment_end"}
_LONGEST = 300_000
"""Characters of templates that are looked at; those of real models have 30,000 at most."""
_EFFORTS: tuple[ReasoningOption, ...] = ("low", "medium", "high")


class ReasoningSetting(msgspec.Struct, frozen=True):
    """The values that `reasoning` may have, and what it is if it is not given."""

    allowed_options: tuple[ReasoningOption, ...]
    default: ReasoningOption


class Capabilities(msgspec.Struct, frozen=True, omit_defaults=True):
    """LM Studio's `capabilities` of a language model."""

    vision: bool
    trained_for_tool_use: bool
    reasoning: ReasoningSetting | None = None


def capabilities(entry: ModelEntry) -> Capabilities:
    """What the model of `entry` can do. Blocks (disk)."""
    try:
        status = entry.path.stat()
        found = _of_file(entry.path, status.st_mtime_ns, status.st_size)
        return msgspec.structs.replace(found, vision=sees(entry))
    except (OSError, InvalidModel):  # gone or damaged since it was listed
        return Capabilities(vision=False, trained_for_tool_use=False)


def sees(entry: ModelEntry) -> bool:
    """Whether an encoder for images lies beside the model. Blocks (disk)."""
    projector = find_projector(entry.path)
    if projector is None:
        return False
    try:
        header = read_header(projector, complete=False)
    except InvalidModel:
        return False
    return header.metadata.get("clip.has_vision_encoder") is True


@lru_cache(maxsize=256)
def _of_file(path: Path, _modified: int, _size: int) -> Capabilities:
    return of_templates(read_header(path, complete=False).chat_templates)


def of_templates(templates: Mapping[str, str]) -> Capabilities:
    """The same from the templates alone."""
    text = "\n".join(templates.values())
    return Capabilities(
        vision=False,
        trained_for_tool_use="tool_use" in templates or bool(re.search(r"\btools\b", text)),
        reasoning=_reasoning(text),
    )


def _reasoning(template: str) -> ReasoningSetting | None:
    """A template offers a setting if it looks at it; one that only knows the tag always thinks."""
    if re.search(r"\breasoning_effort\b", template):
        return ReasoningSetting(_EFFORTS, "medium")
    if switches := _switches(template):
        # Without a word about it, families with a switch of their own do not think.
        return ReasoningSetting(("off", "on"), "on" if switches == {"enable_thinking"} else "off")
    if "<think>" in template:
        return ReasoningSetting(("on",), "on")
    return None


def _switches(template: str) -> set[str]:
    """Those of the variables for thinking that the template reads, before it gives them a value.

    It is taken apart, not parsed or tried: it is anybody's, and this is not the process that renders.
    """
    try:
        tokens = [token for token in _JINJA.lex(template[:_LONGEST]) if token[1] not in _SPACE]
    except TemplateError:
        return set()
    found: set[str] = set()
    own: set[str] = set()
    target = ""
    before = ""
    for (_, kind, text), (_, _, after) in pairwise([*tokens, (0, "", "")]):
        if kind == "block_end":
            own.add(target)  # from here on
            target = ""
        elif text in SWITCHES and kind == "name":
            if before in {"set", "for"}:
                target = text
            elif before != "." and after != "=" and text not in own:
                found.add(text)
        before = text
    return found


def check_reasoning(wanted: ReasoningOption, entry: ModelEntry) -> Reasoning:
    """What a `reasoning` setting means. Blocks (disk).

    Raises
    ------
    InvalidRequest
        The model does not offer that value.
    """
    offered = capabilities(entry).reasoning
    allowed = offered.allowed_options if offered else ()
    if wanted not in allowed:
        choices = ", ".join(f"'{option}'" for option in allowed)
        raise InvalidRequest(
            f"{entry.key} does not support the reasoning setting '{wanted}'.",
            hint=f"It offers {choices}." if choices else "It offers none: leave it out.",
            param="reasoning",
        )
    return meaning(wanted)


def meaning(wanted: ReasoningOption) -> Reasoning:
    """What a `reasoning` setting means for a model that offers it."""
    if wanted in _EFFORTS:
        return Reasoning(effort=wanted)
    return Reasoning(enabled=wanted == "on")

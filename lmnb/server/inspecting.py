"""How a model writes, found from its file's header alone; nothing is loaded."""

from __future__ import annotations

import asyncio

import msgspec

from lmnb.chat.formats.default import CALLS
from lmnb.chat.formats.examples import examples
from lmnb.chat.formats.format import Format
from lmnb.chat.rendering.renderer import Renderer, choose_template
from lmnb.engine.gguf import LongArray, Scalar, read_header
from lmnb.errors import InvalidRequest
from lmnb.models.entry import ModelEntry

_TEMPLATE = "chat_template"


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What `lmnb inspect` says.

    template
        Whether the file has one; else lmnb's default is meant.
    default_calls
        Calls are written in lmnb's own syntax, since the template has none.
    written
        `answer`, `call` and perhaps `calls`: texts as the model writes them.
    templates
        The chat templates of the file by name, such as `default` and `tool_use`.
    metadata
        What else the file says of itself, lists left out.
    """

    model: str
    template: bool
    default_calls: bool
    format: Format
    written: dict[str, str]
    templates: dict[str, str]
    metadata: dict[str, Scalar]


async def inspect(entry: ModelEntry, renderer: Renderer) -> Inspected:
    """Derive the format of a model on the disk.

    Raises
    ------
    InvalidModel
        The file cannot be read.
    InvalidRequest
        The template cannot be used, or the model writes no answers.
    """
    if entry.kind != "llm":
        raise InvalidRequest(f"{entry.key} is no language model: it writes nothing.", param="model")
    header = await asyncio.to_thread(read_header, entry.path, complete=False)
    template = choose_template(header.chat_templates, tools=True)
    form = await renderer.format(template)
    return Inspected(
        model=entry.key,
        template=template is not None,
        default_calls=form.calls is None,
        format=msgspec.structs.replace(form, calls=form.calls or CALLS),
        written=examples(form),
        templates=header.chat_templates,
        metadata={
            key: value
            for key, value in header.metadata.items()
            if not isinstance(value, tuple | LongArray) and _TEMPLATE not in key
        },
    )

"""Tools of a request, checked before anything is loaded: what of them will be enforced."""

from __future__ import annotations

import asyncio

import msgspec

from lmnb.chat.conversation import Request


async def check(request: Request) -> tuple[str, ...]:
    """Refuse strict tools that cannot be enforced. The warnings say what of the others is not.

    Raises
    ------
    NotSupported, InvalidRequest
        A strict tool's schema (see `lmnb.chat.formats.forcing.schemas.warnings`), or the grammar of
        a custom tool (see `lmnb.chat.formats.forcing.inputs.rules.check`).
    """
    if not request.tools or request.tool_choice.mode == "none":
        return ()
    return await asyncio.to_thread(_check, request)


def _check(request: Request) -> tuple[str, ...]:
    from lmnb.chat.formats.forcing import schemas
    from lmnb.chat.formats.forcing.inputs import rules
    from lmnb.chat.tool_names import whole_schema

    for tool in request.tools:
        rules.check(tool)
    whole = tuple(
        msgspec.structs.replace(tool, parameters=whole_schema(tool.parameters))
        for tool in request.tools
    )
    return schemas.warnings(whole)

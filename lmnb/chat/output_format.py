"""The form an answer must have: checked before anything is loaded, then told to the engine."""

from __future__ import annotations

import asyncio
from functools import lru_cache

import msgspec

from lmnb.chat.conversation import OutputFormat
from lmnb.engine.options import ConstraintSpec
from lmnb.errors import LmnbError


def constraint(
    form: OutputFormat, *, opening: str | None = None, after: str | None = None
) -> ConstraintSpec | None:
    """What the engine is told. `opening` and `after` as in `ConstraintSpec`."""
    if form.type == "text":
        return None
    text = form.definition
    if form.type == "json_schema":
        text = msgspec.json.encode(form.schema or {}).decode()
    return ConstraintSpec(
        kind=form.type, text=text, lenient=not form.strict, opening=opening, after=after
    )


async def check(form: OutputFormat) -> tuple[str, ...]:
    """Refuse a format that cannot be enforced. The warnings say which parts of it are not.

    Raises
    ------
    NotSupported
        A keyword of the schema cannot be enforced, and the format is strict.
    InvalidRequest
        The format is wrong, or too costly.
    """
    spec = constraint(form)
    if spec is None:
        return ()
    try:
        return await asyncio.to_thread(_check, spec)
    except LmnbError as error:
        error.param = form.param
        raise


@lru_cache(32)
def _check(spec: ConstraintSpec) -> tuple[str, ...]:
    from lmnb.engine import grammar_source

    return grammar_source.check(spec)

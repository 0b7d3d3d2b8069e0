"""Output formats on their way from a request to the engine."""

from __future__ import annotations

import asyncio

import pytest

from lmnb.chat import output_format
from lmnb.chat.conversation import OutputFormat
from lmnb.engine.options import ConstraintSpec
from lmnb.errors import InvalidRequest, NotSupported


def test_what_the_engine_is_told() -> None:
    schema = {"type": "object", "properties": {"é": {"const": 1}}}
    form = OutputFormat("json_schema", schema, strict=False)
    assert output_format.constraint(form, after="</think>") == ConstraintSpec(
        kind="json_schema",
        text='{"type":"object","properties":{"é":{"const":1}}}',
        lenient=True,
        after="</think>",
    )
    assert output_format.constraint(OutputFormat()) is None
    regex = output_format.constraint(OutputFormat("regex", definition="a+"))
    assert regex == ConstraintSpec(kind="regex", text="a+")


def test_errors_name_the_field() -> None:
    form = OutputFormat("json_schema", {"not": {}}, param="text.format.schema")
    for _ in range(2):
        with pytest.raises(NotSupported, match="'not'") as caught:
            asyncio.run(output_format.check(form))
        assert caught.value.param == "text.format.schema"
        assert caught.value.hint
    with pytest.raises(InvalidRequest, match="unclosed group"):
        asyncio.run(output_format.check(OutputFormat("regex", definition="(")))


def test_warnings_say_what_is_not_enforced() -> None:
    form = OutputFormat("json_schema", {"type": "array", "uniqueItems": True}, strict=False)
    (warning,) = asyncio.run(output_format.check(form))
    assert "'uniqueItems'" in warning
    assert asyncio.run(output_format.check(OutputFormat("json_schema", {"type": "array"}))) == ()
    assert asyncio.run(output_format.check(OutputFormat())) == ()

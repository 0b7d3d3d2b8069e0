"""Jinja as chat templates expect it, sandboxed.

What templates rely on is set by Hugging Face's transformers (utils/chat_template_utils.py), where
their authors test them: block trimming, loop controls, `{% generation %}`, a `tojson` that leaves
letters alone, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import GeneratorType
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT = 32 * 1024 * 1024
"""Characters of a rendered prompt; more than the context of any model holds."""


_NOT_ASCII = re.compile("[^\0-\x7f\U000f0000-\U000ffffd]")
"""What JSON can escape, but for marked words (`lmnb.chat.rendering.marks`), which must be found again."""


class TemplateRefusal(TemplateError):
    """The template called `raise_exception`."""


class OutputTooLong(Exception):
    """The template printed more than `MAX_OUTPUT`."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the model's words for training; here it is nothing."""

    tags = {"generation"}  # noqa: RUF012 - declared so by Extension

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Lists may grow and shrink: templates keep queues of calls in them (Kimi's does)."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, list) and attr in {"append", "extend", "insert", "pop"}:
            return True
        return super().is_safe_attribute(obj, attr, value)


def make_environment() -> ImmutableSandboxedEnvironment:
    """A fresh environment. Attributes with underscores, and changing mappings, are off limits."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.filters["from_json"] = json.loads
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def print_template(
    chunks: Callable[[Mapping[str, Any]], Any],
    variables: Mapping[str, Any],
    limit: int = MAX_OUTPUT,
) -> str:
    """What the template prints (`chunks` is its `generate`), at most `limit` characters of it."""
    parts: list[str] = []
    size = 0
    for part in chunks(variables):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise OutputTooLong
    return "".join(parts)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    text = json.dumps(
        value,
        ensure_ascii=False,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_from_generator,
    )
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text) if ensure_ascii else text


def _from_generator(value: Any) -> list[Any]:
    """What filters like `map` yield is lazy in Jinja; templates take it for a list."""
    if isinstance(value, GeneratorType):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)

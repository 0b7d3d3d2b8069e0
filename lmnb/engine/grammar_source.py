"""What the model's output may be told to be: from a schema, a regex or a Lark grammar to llguidance's text.

Checked without a model, so that the server can refuse a request before it queues. Whoever sends a
grammar is not trusted: what would take llguidance's compiler seconds, or its stack (it recurses
along references, and running out of stack ends the process), is refused beforehand.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from lmnb.engine.options import ConstraintSpec
from lmnb.errors import InvalidRequest, NotSupported

T = TypeVar("T")

MAX_LENGTH = 250_000
"""Characters of a schema or grammar. Longer ones take llguidance more than a second."""
MAX_STRING = 20_000
"""Characters of a pattern or constant: these are searched as a whole between two tokens."""
MAX_DEPTH = 100
"""Levels of a schema; llguidance's JSON reader stops at 128, some of which it needs itself."""
MAX_LEVELS = 20_000
"""Distinct references of a schema times its depth: what a chain of references may take of the stack."""
MAX_PROPERTIES_SQUARED = 2_000_000
"""Sum over all objects of the square of the number of their properties, as the compiler's time goes."""
MAX_MULTIPLE = 10_000
"""Digits of a `multipleOf`, without the zeros at the end: the automaton has as many states."""

_STACK = 128 << 20  # the levels above take about 60 MB; pages that are not touched cost nothing
_stack_size = threading.Lock()

LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""A lexer state takes up to 2 kB; llguidance's own limit would allow 500 MB for one request."""

_UNIMPLEMENTED = re.compile(r"^Unimplemented keys: \[(.*)\]")
_UNKNOWN_FORMAT = re.compile(r"^Unknown format: (\S+)")


def source(spec: ConstraintSpec) -> str:
    """The grammar as llguidance reads it.

    JSON comes without optional whitespace: that is what leaves most tokens without a choice, and
    free whitespace lets weak models write blank lines for ever.

    Raises
    ------
    InvalidRequest
        It is too long, too deep or too costly, or no JSON schema.
    """
    if len(spec.text) > MAX_LENGTH:
        raise InvalidRequest(
            f"The {_name(spec)} has {len(spec.text)} characters; at most {MAX_LENGTH} are possible."
        )
    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    if spec.kind == "lark":
        _check_embedded(spec.text)
        return LLMatcher.grammar_from_lark(spec.text)
    text = '{"type":"object"}' if spec.kind == "json_object" else spec.text
    read(text)
    options: Any = {
        "whitespace_flexible": False,
        "lenient": spec.lenient,
        "coerce_one_of": spec.lenient,
    }
    return LLMatcher.grammar_from_json_schema(text, overrides=options)


def check(spec: ConstraintSpec) -> tuple[str, ...]:
    """Compile the grammar without a vocabulary. The warnings say what is not enforced.

    Raises
    ------
    NotSupported
        The schema uses a keyword that cannot be enforced; the message names it.
    InvalidRequest
        The schema, the regex or the grammar is wrong or too costly.
    """
    text = source(spec)
    failed, messages = with_deep_stack(
        lambda: LLMatcher.validate_grammar_with_warnings(text, limits=LIMITS)
    )
    if failed:
        raise explain(spec, messages[0])
    # Others are no news to the caller: special tokens of Lark are checked with the vocabulary.
    return tuple(_warning(message) for message in messages if _is_omission(message))


def compiled(spec: ConstraintSpec, tokenizer: LLTokenizer) -> LLMatcher:
    """The grammar for a vocabulary.

    Raises
    ------
    InvalidRequest
        As `check`; or no text at all fits the grammar.
    """
    text = source(spec)

    def build() -> tuple[LLMatcher, str]:
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=LIMITS)
        # Whether an answer can begin, and is not forced to go on for ever, shows only in trying.
        trial = matcher.deep_copy()
        trial.consume_tokens(trial.compute_ff_tokens()[:1])
        trial.compute_bitmask()
        return matcher, trial.get_error() if trial.is_error() else ""

    matcher, error = with_deep_stack(build)
    if error.startswith("NoExtension"):
        error = "there is no text that fits it"
    if error:
        raise explain(spec, error)
    return matcher


def with_deep_stack(function: Callable[[], T]) -> T:
    """Run `function` in a thread with so much stack that no accepted grammar exhausts it."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001  (Rust's panics are no Exceptions)
            failures.append(error)

    with _stack_size:
        former = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=run)
            thread.start()
        finally:
            threading.stack_size(former)
    thread.join()
    if failures:
        raise InvalidRequest(f"The grammar cannot be compiled: {failures[0]}.") from failures[0]
    return results[0]


def explain(spec: ConstraintSpec, message: str) -> InvalidRequest:
    """The compiler's message in the caller's terms."""
    if _is_omission(message):
        return NotSupported(
            f"The JSON schema uses {_what(message)}, which cannot be enforced.",
            hint="Leave it out, or set 'strict' to false to have the rest of the schema enforced.",
        )
    return InvalidRequest(f"The {_name(spec)} cannot be used: {_shortened(message)}.")


def _is_omission(message: str) -> bool:
    """Whether the message is about something that could be left out."""
    keys, unknown = _UNIMPLEMENTED.match(message), _UNKNOWN_FORMAT.match(message)
    return bool(keys or unknown or message.startswith("oneOf"))


def _warning(message: str) -> str:
    return f"The answer may break the JSON schema: {_what(message)} is not enforced."


def _what(message: str) -> str:
    if keys := _UNIMPLEMENTED.match(message):
        return keys[1].replace('"', "'")
    if unknown := _UNKNOWN_FORMAT.match(message):
        return f"the format '{unknown[1]}'"
    return "'oneOf' with alternatives that may overlap" if "oneOf" in message else message


def _shortened(message: str) -> str:
    """Of a regex error (which repeats the whole regex) the reason, of others the first line."""
    reasons = re.findall(r"^error: (.*)", message, re.MULTILINE)
    text = reasons[0] if reasons else message.splitlines()[0]
    return text[:300].rstrip(".")


def _name(spec: ConstraintSpec) -> str:
    names = {"regex": "regular expression", "lark": "Lark grammar"}
    return names.get(spec.kind, "JSON schema")


# --- what a schema costs -------------------------------------------------------------


def read(text: str) -> dict[str, Any]:
    """A JSON schema that is not too costly.

    Raises
    ------
    InvalidRequest
        It is too long, too deep or too costly, or no schema.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidRequest(
            f"The JSON schema has {len(text)} characters; at most {MAX_LENGTH} are possible."
        )
    try:
        schema = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise InvalidRequest(f"The JSON schema is no JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise InvalidRequest("The JSON schema must be an object.")
    _check_costs(schema)
    return schema


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The JSON schema is nested too deeply; at most {MAX_DEPTH} levels are possible.",
        hint="Give its parts names in '$defs' and refer to them.",
    )


def _check_embedded(text: str) -> None:
    """Schemas inside a Lark grammar (`%json {…}`)."""
    for found in re.finditer(r"%json\s*", text):
        try:
            schema, _ = json.JSONDecoder().raw_decode(text, found.end())
        except RecursionError:
            raise _too_deep() from None
        except ValueError:
            continue  # llguidance says it better
        _check_costs(schema)


def _check_costs(schema: object) -> None:
    references: set[str] = set()
    properties = depth = 0
    pending: list[tuple[Any, int]] = [(schema, 1)]
    while pending:
        node, level = pending.pop()
        if level > MAX_DEPTH:
            raise _too_deep()
        depth = max(depth, level)
        if isinstance(node, str):
            if len(node) > MAX_STRING:
                raise InvalidRequest("The JSON schema contains a text that is too long.")
            continue
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                references.add(reference)
            if isinstance(named := node.get("properties"), dict):
                properties += len(named) ** 2
            _check_multiple(node.get("multipleOf"))
        inside = node.values() if isinstance(node, dict) else node
        pending += [(child, level + 1) for child in inside if isinstance(child, dict | list | str)]
    if len(references) * depth > MAX_LEVELS:
        raise InvalidRequest(
            f"The JSON schema has too many references ({len(references)}, in {depth} levels)."
        )
    if properties > MAX_PROPERTIES_SQUARED:
        raise InvalidRequest(
            "The JSON schema has objects with too many properties; one may have at most "
            f"{int(MAX_PROPERTIES_SQUARED**0.5)}."
        )


def _check_multiple(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    number = Decimal(str(value))
    digits = "".join(map(str, number.as_tuple().digits)).rstrip("0")
    if not number.is_finite() or int(digits or "0") > MAX_MULTIPLE:
        raise InvalidRequest(f"The JSON schema's multipleOf {value} has too many digits.")

"""`response_format` and `text.format`: what form the answer must have (protocols, 1.2 and 1.3)."""

from __future__ import annotations

from typing import Any

from lmnb.chat.conversation import OutputFormat
from lmnb.server.openai.body import Fields
from lmnb.server.openai.errors import InvalidValue, UnsupportedParameter
from lmnb.server.openai.values import mapping, string

_FOREIGN = (
    "grammar",
    "json_schema",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
)


class OutputFields(Fields):
    """`response_format`, and what other servers call it: to ignore that would free the answer."""

    response_format: Any = None
    grammar: Any = None
    json_schema: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None

    def output_format(self) -> OutputFormat:
        """The wanted form.

        Raises
        ------
        UnsupportedParameter
            It is given by a name of llama.cpp's or vLLM's server.
        InvalidRequest
            It cannot be understood.
        """
        for name in _FOREIGN:
            if getattr(self, name) is not None:
                raise UnsupportedParameter(
                    f"'{name}' is not supported.",
                    hint="Use 'response_format', of type 'json_schema' or 'grammar'.",
                    param=name,
                )
        return translate(self.response_format, "response_format")


def translate(value: Any, param: str) -> OutputFormat:
    """`text`, `json_object`, `json_schema`, or `grammar`.

    A schema stands in `json_schema` (Chat Completions) or directly in the format (Responses); both
    are taken everywhere. Without `strict` it counts as strict, and `strict` may be a string, as in
    LM Studio's documentation. `grammar` is OpenAI's format of custom tools, {"type": "grammar",
    "syntax": "lark" or "regex", "definition": …}.
    """
    if value is None:
        return OutputFormat()
    form = mapping(value, param)
    kind = form.get("type")
    if kind == "text":
        return OutputFormat()
    if kind == "json_object":
        return OutputFormat("json_object", param=param)
    if kind == "json_schema":
        if "schema" in form or (param == "text.format" and "json_schema" not in form):
            return _schema(form, param)
        where = f"{param}.json_schema"
        return _schema(mapping(form.get("json_schema"), where), where)
    if kind == "grammar":
        return _grammar(form, param)
    raise InvalidValue(
        f"Invalid value for '{param}.type': expected 'text', 'json_object', 'json_schema' "
        "or 'grammar'.",
        param=f"{param}.type",
    )


def _schema(form: dict[str, Any], where: str) -> OutputFormat:
    return OutputFormat(
        "json_schema",
        schema=mapping(form.get("schema"), f"{where}.schema"),
        name=form.get("name") if isinstance(form.get("name"), str) else None,
        strict=form.get("strict") not in (False, "false"),
        param=f"{where}.schema",
    )


def _grammar(form: dict[str, Any], param: str) -> OutputFormat:
    syntax, definition = string(form, "syntax", param), string(form, "definition", param)
    if syntax == "lark":
        return OutputFormat("lark", definition=definition, param=f"{param}.definition")
    if syntax == "regex":
        return OutputFormat("regex", definition=definition, param=f"{param}.definition")
    raise InvalidValue(
        f"Invalid value for '{param}.syntax': expected 'lark' or 'regex'.",
        param=f"{param}.syntax",
    )

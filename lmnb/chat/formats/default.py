"""How tools are told to a model whose template knows none, and how it is asked to call them.

The stated default: the tools stand in the system message, calls are written as in the Hermes
models, whose form more models have seen than any other, and results come back in the user's turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmnb.chat.conversation import ToolCall
from lmnb.chat.formats.format import ARGUMENTS, NAME, Calls, JsonCall
from lmnb.chat.formats.write import write_calls

CALLS = Calls(
    call=JsonCall(
        begin="<tool_call>\n",
        end="\n</tool_call>",
        example=f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}',
    ),
    separator="\n",
)
"""What `Format.calls` is where a template knows no tools."""

_TOOLS = """\
# Tools

You can call these functions. Each is a JSON object, its parameters are a JSON schema:

<tools>
{tools}
</tools>

To call a function, end your answer with its name and its arguments in this form:

{example}"""
_ONE_BY_ONE = "Call one function at a time."
_ALIKE = "Several calls follow one another in the same form."
_TOGETHER = "Several calls stand together:\n\n{examples}"
_RESULTS = (
    "What the functions return is told to you afterwards, between <tool_response> and "
    "</tool_response>."
)
_OR_NOT = "Answer without a call if none is needed."

_EXAMPLE = ToolCall("call_1", "name_of_function", '{"name_of_parameter": "value"}')
_ANOTHER = ToolCall("call_2", "name_of_another", '{"name_of_parameter": "value"}')


def tool_prompt(
    tools: Iterable[Mapping[str, Any]], calls: Calls = CALLS, *, results: bool = True
) -> str:
    """Tools as words for the system message.

    Parameters
    ----------
    tools
        OpenAI's function objects, or just their `function`.
    calls
        How the model is to write calls.
    results
        Results will be told in the words of `result_text`.
    """
    lines = (json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    told = [_TOOLS.format(tools="\n".join(lines), example=write_calls(calls, [_EXAMPLE]))]
    if not calls.parallel:
        told.append(_ONE_BY_ONE)
    elif calls.begin or calls.end:
        told.append(_TOGETHER.format(examples=write_calls(calls, [_EXAMPLE, _ANOTHER])))
    else:
        told.append(_ALIKE)
    return "\n\n".join([*told, f"{_RESULTS} {_OR_NOT}" if results else _OR_NOT])


def result_text(results: Sequence[str]) -> str:
    """Results of calls, in the order of the calls, as words for the user's turn."""
    return "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in results)

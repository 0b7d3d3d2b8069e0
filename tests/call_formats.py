"""Formats as families write them, by hand: every kind of call that `Format` can say."""

from __future__ import annotations

from lmnb.chat.formats import default
from lmnb.chat.formats.format import (
    ARGUMENTS,
    ID,
    INDEX,
    NAME,
    Calls,
    DictArguments,
    Format,
    HarmonyCall,
    JsonCall,
    PythonCall,
    Span,
    TaggedArguments,
    WrittenCall,
)

THINK = Span("<think>\n", "\n</think>\n\n")

FORMATS: dict[str, Format] = {
    "hermes": Format(thinking=THINK, calls=default.CALLS),
    "llama 3": Format(
        calls=Calls(
            call=JsonCall(
                arguments_key="parameters",
                example=f'{{"name": "{NAME}", "parameters": {ARGUMENTS}}}',
            ),
            separator="; ",
            parallel=False,
        )
    ),
    "mistral": Format(
        calls=Calls(
            begin="[TOOL_CALLS][",
            call=JsonCall(
                id_key="id", example=f'{{"name": "{NAME}", "arguments": {ARGUMENTS}, "id": "{ID}"}}'
            ),
            separator=", ",
            end="]",
        )
    ),
    "openai": Format(
        calls=Calls(
            begin="Action: ```json\n[",
            call=JsonCall(keys=("function",), example=""),
            separator=", ",
            end="]```",
        )
    ),
    "mistral 3": Format(
        calls=Calls(call=WrittenCall(pieces=("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS)))
    ),
    "kimi": Format(
        calls=Calls(
            begin="<|tool_calls_section_begin|>",
            call=WrittenCall(
                pieces=(
                    "<|tool_call_begin|>functions.",
                    NAME,
                    ":",
                    INDEX,
                    "<|tool_call_argument_begin|>",
                    ARGUMENTS,
                    "<|tool_call_end|>",
                )
            ),
            end="<|tool_calls_section_end|>",
        )
    ),
    "qwen coder": Format(
        thinking=THINK,
        calls=Calls(
            call=WrittenCall(
                pieces=(
                    "<tool_call>\n<function=",
                    NAME,
                    ">\n",
                    ARGUMENTS,
                    "</function>\n</tool_call>",
                ),
                arguments=TaggedArguments(
                    key_begin="<parameter=", key_end=">\n", value_end="\n</parameter>\n"
                ),
            ),
            separator="\n",
        ),
    ),
    "glm": Format(
        calls=Calls(
            call=WrittenCall(
                pieces=("<tool_call>", NAME, "\n", ARGUMENTS, "</tool_call>"),
                arguments=TaggedArguments(
                    key_begin="<arg_key>",
                    key_end="</arg_key>\n<arg_value>",
                    value_end="</arg_value>\n",
                ),
            ),
            separator="\n",
        )
    ),
    "deepseek": Format(
        calls=Calls(
            begin="<｜DSML｜function_calls>\n",
            call=WrittenCall(
                pieces=('<｜DSML｜invoke name="', NAME, '">\n', ARGUMENTS, "\n</｜DSML｜invoke>\n"),
                arguments=TaggedArguments(
                    key_begin='<｜DSML｜parameter name="',
                    key_end='" ',
                    value_end="</｜DSML｜parameter>",
                    separator="\n",
                    typed=('string="true">', 'string="false">'),
                ),
            ),
            end="</｜DSML｜function_calls>",
        )
    ),
    "json values": Format(
        calls=Calls(
            call=WrittenCall(
                pieces=('<invoke name="', NAME, '">', ARGUMENTS, "</invoke>"),
                arguments=TaggedArguments(
                    key_begin='<parameter name="',
                    key_end='">',
                    value_end="</parameter>",
                    raw_strings=False,
                ),
            )
        )
    ),
    "gemma": Format(
        calls=Calls(
            call=WrittenCall(
                pieces=("<|tool_call>call:", NAME, ARGUMENTS, "<tool_call|>"),
                arguments=DictArguments(quote='<|"|>'),
            )
        )
    ),
    "python": Format(
        calls=Calls(
            begin="<|tool_call_start|>[",
            call=PythonCall(),
            separator=", ",
            end="]<|tool_call_end|>",
        )
    ),
    "python alone": Format(calls=Calls(begin="[", call=PythonCall(), separator=", ", end="]")),
    "harmony": Format(
        thinking=Span("<|channel|>analysis<|message|>", "<|end|>"),
        answer=Span("<|channel|>final<|message|>", ""),
        calls=Calls(call=HarmonyCall(), parallel=False),
        ends=("<|call|>",),
    ),
}
"""By family. The markers are text here; `CONTROLS` has those that a model may have as tokens."""

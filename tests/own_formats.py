"""What the formats of our own templates are (`tests/templates`), by file name."""

from __future__ import annotations

from lmnb.chat.formats.format import (
    ARGUMENTS,
    ID,
    INDEX,
    NAME,
    Arguments,
    Calls,
    DictArguments,
    Format,
    JsonArguments,
    JsonCall,
    PythonCall,
    Span,
    TaggedArguments,
    WrittenCall,
)

_END = ("<|end|>",)
THINK = Span("<think>\n", "\n</think>\n\n")


def json_call(
    begin: str = "", end: str = "", *, name: str = "name", arguments: str = "arguments"
) -> JsonCall:
    """`{"name": …, "arguments": …}` between two texts."""
    return JsonCall(
        begin=begin,
        end=end,
        name_key=name,
        arguments_key=arguments,
        example=f'{{"{name}": "{NAME}", "{arguments}": {ARGUMENTS}}}',
    )


def written(*pieces: str, arguments: Arguments = JsonArguments()) -> WrittenCall:  # noqa: B008
    """A call as text with places."""
    return WrittenCall(pieces=pieces, arguments=arguments)


OWN: dict[str, Format] = {
    "bare_keys": Format(
        calls=Calls(
            call=written(
                "<|call>", NAME, ARGUMENTS, "<call|>", arguments=DictArguments(quote="<|q|>")
            )
        ),
        ends=_END,
    ),
    "channels": Format(
        thinking=Span("<|START_THOUGHT|>", "<|END_THOUGHT|>"),
        answer=Span("<|START_TEXT|>", "<|END_TEXT|>"),
        calls=Calls(
            begin="<|START_ACTION|>[\n    ",
            call=JsonCall(
                name_key="tool",
                arguments_key="parameters",
                id_key="id",
                example=f'{{"id": "{ID}", "tool": "{NAME}", "parameters": {ARGUMENTS}}}',
            ),
            separator=",\n    ",
            end="\n]<|END_ACTION|>",
        ),
        ends=_END,
    ),
    "counted": Format(
        calls=Calls(
            begin="<|calls_begin|>",
            call=written(
                "<|call_begin|>functions.", NAME, ":", INDEX, "<|args|>", ARGUMENTS, "<|call_end|>"
            ),
            end="<|calls_end|>",
        ),
        ends=_END,
    ),
    "history_without_thinking": Format(thinking=Span("<reflect>\n", "</reflect>"), ends=_END),
    "json_array": Format(
        calls=Calls(
            begin="[CALLS][",
            call=JsonCall(
                keys=("function",),
                name_key="name",
                arguments_key="args",
                id_key="id",
                example=f'{{"id": "{ID}", "function": {{"name": "{NAME}", "args": {ARGUMENTS}}}}}',
            ),
            separator=", ",
            end="]",
        ),
        ends=_END,
    ),
    "json_in_tags": Format(
        thinking=THINK,
        calls=Calls(call=json_call("<call>\n", "\n</call>"), separator="\n", after_words="\n"),
        ends=_END,
    ),
    "key_in_both_tags": Format(ends=_END),
    "last_answer_keeps_thinking": Format(thinking=Span("<think>", "</think>"), ends=_END),
    "name_as_key": Format(
        calls=Calls(call=written('<|call_begin|>{"', NAME, '": ', ARGUMENTS, "}<|call_end|>")),
        ends=_END,
    ),
    "name_in_tag": Format(
        calls=Calls(call=written("<fn=", NAME, ">", ARGUMENTS, "</fn>"), string_arguments=True),
        ends=("<|eom|>", "<|end|>"),
    ),
    "parts": Format(
        thinking=Span("[THINK]", "[/THINK]"),
        calls=Calls(call=written("[CALLS]", NAME, "[ARGS]", ARGUMENTS)),
        ends=_END,
    ),
    "python": Format(
        calls=Calls(
            begin="<|calls_begin|>[", call=PythonCall(), separator=", ", end="]<|calls_end|>"
        ),
        ends=_END,
    ),
    "recipients": Format(
        answer=Span(">>>all\n", ""),
        calls=Calls(call=written(">>>", NAME, "\n", ARGUMENTS), string_arguments=True),
        ends=_END,
    ),
    "single_json": Format(
        calls=Calls(call=json_call(arguments="parameters"), parallel=False), ends=_END
    ),
    "tagged": Format(
        thinking=THINK,
        calls=Calls(
            begin="\n",
            call=written(
                "<call>\n<function=",
                NAME,
                ">\n",
                ARGUMENTS,
                "</function>\n</call>",
                arguments=TaggedArguments(
                    key_begin="<parameter=", key_end=">\n", value_end="\n</parameter>\n"
                ),
            ),
            separator="\n",
        ),
        ends=_END,
    ),
    "tagged_json": Format(
        calls=Calls(
            begin="<calls>\n",
            call=written(
                '<invoke name="',
                NAME,
                '">',
                ARGUMENTS,
                "</invoke>",
                arguments=TaggedArguments(
                    key_begin='<arg name="', key_end='">', value_end="</arg>", raw_strings=False
                ),
            ),
            separator="\n",
            end="\n</calls>",
        ),
        ends=_END,
    ),
    "typed": Format(
        calls=Calls(
            begin="\n\n<calls>\n",
            call=written(
                '<invoke name="',
                NAME,
                '">\n',
                ARGUMENTS,
                "\n</invoke>",
                arguments=TaggedArguments(
                    key_begin='<arg name="',
                    key_end='" string="',
                    value_end="</arg>",
                    separator="\n",
                    typed=('true">', 'false">'),
                ),
            ),
            separator="\n",
            end="\n</calls>",
        ),
        ends=_END,
    ),
    "with_id": Format(
        calls=Calls(call=written("[CALL]", NAME, "[ID]", ID, "[ARGS]", ARGUMENTS)), ends=_END
    ),
}

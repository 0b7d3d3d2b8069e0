"""What the formats of the families' templates are, read from the templates, by file name.

The templates are not part of the project (`../shared/chat-templates`).
"""

from __future__ import annotations

import msgspec
from own_formats import THINK, json_call, written

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

_PLAIN_THINK = Span("<think>", "</think>")
_OPEN_THINK = Span("<think>\n", "</think>")

_HERMES = Calls(call=json_call("<tool_call>\n", "\n</tool_call>"), separator="\n")
_HERMES_AFTER_WORDS = Calls(
    call=json_call("<tool_call>\n", "\n</tool_call>"), separator="\n", after_words="\n"
)
_LLAMA = Format(
    calls=Calls(call=json_call(arguments="parameters"), parallel=False), ends=("<|eot_id|>",)
)


def _function(value_begin: str, value_end: str, tag: str = "tool_call") -> WrittenCall:
    """`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`."""
    return written(
        f"<{tag}>\n<function=",
        NAME,
        ">\n",
        ARGUMENTS,
        f"</function>\n</{tag}>",
        arguments=TaggedArguments(
            key_begin="<parameter=",
            key_end=f">{value_begin}",
            value_end=f"{value_end}</parameter>\n",
        ),
    )


def _keys_and_values(gap: str) -> WrittenCall:
    """`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>` (GLM)."""
    return written(
        "<tool_call>",
        NAME,
        *filter(None, [gap]),
        ARGUMENTS,
        "</tool_call>",
        arguments=TaggedArguments(
            key_begin="<arg_key>",
            key_end=f"</arg_key>{gap}<arg_value>",
            value_end=f"</arg_value>{gap}",
        ),
    )


def _cohere(answer: Span) -> Format:
    return Format(
        thinking=Span("<|START_THINKING|>", "<|END_THINKING|>"),
        answer=answer,
        calls=Calls(
            begin="<|START_ACTION|>[\n    ",
            call=JsonCall(
                name_key="tool_name",
                arguments_key="parameters",
                id_key="tool_call_id",
                example=(
                    f'{{"tool_call_id": "{ID}", "tool_name": "{NAME}", "parameters": {ARGUMENTS}}}'
                ),
            ),
            separator=",\n    ",
            end="\n]<|END_ACTION|>",
        ),
        ends=("<|END_OF_TURN_TOKEN|>",),
    )


def _kimi(thinking: Span | None = None) -> Format:
    return Format(
        thinking=thinking,
        calls=Calls(
            begin="<|tool_calls_section_begin|>",
            call=written(
                "<|tool_call_begin|>functions.",
                NAME,
                ":",
                INDEX,
                "<|tool_call_argument_begin|>",
                ARGUMENTS,
                "<|tool_call_end|>",
            ),
            end="<|tool_calls_section_end|>",
        ),
        ends=("<|im_end|>",),
    )


_DEEPSEEK_END = ("<｜end▁of▁sentence｜>",)


def _deepseek(thinking: Span, separator: str, *pieces: str, as_text: bool = False) -> Format:
    return Format(
        thinking=thinking,
        calls=Calls(
            begin="<｜tool▁calls▁begin｜>",
            call=written(*pieces),
            separator=separator,
            end="<｜tool▁calls▁end｜>",
            string_arguments=as_text,
        ),
        ends=_DEEPSEEK_END,
    )


_R1_CALL = (
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    NAME,
    "\n```json\n",
    ARGUMENTS,
    "\n```<｜tool▁call▁end｜>",
)


def _dsml(section: str, value_end: str, separator: str, end: str) -> Format:
    return Format(
        thinking=_PLAIN_THINK,
        calls=Calls(
            begin=f"\n\n<｜DSML｜{section}>\n",
            call=written(
                '<｜DSML｜invoke name="',
                NAME,
                '">\n',
                ARGUMENTS,
                end,
                arguments=TaggedArguments(
                    key_begin='<｜DSML｜parameter name="',
                    key_end='" string="',
                    value_end=value_end,
                    separator=separator,
                    typed=('true">', 'false">'),
                ),
            ),
            separator="\n",
            end=f"\n</｜DSML｜{section}>",
        ),
        ends=_DEEPSEEK_END,
    )


_DSML_4 = _dsml("tool_calls", "</｜DSML｜parameter>", "\n", "\n</｜DSML｜invoke>")


def _gemma(think_end: str, *ends: str) -> Format:
    return Format(
        thinking=Span("<|channel>thought\n", think_end),
        calls=Calls(
            call=written(
                "<|tool_call>call:",
                NAME,
                ARGUMENTS,
                "<tool_call|>",
                arguments=DictArguments(quote='<|"|>'),
            )
        ),
        ends=ends,
    )


_APRIEL_CALLS = Calls(
    begin="\n<tool_calls>[", call=json_call(), separator=", ", end="]</tool_calls>"
)
_LFM2 = Format(
    calls=Calls(
        begin="<|tool_call_start|>[", call=PythonCall(), separator=", ", end="]<|tool_call_end|>"
    ),
    ends=("<|im_end|>",),
    family="lfm2",
)
_MISTRAL_13 = Calls(call=written("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS))

FAMILIES: dict[str, Format] = {
    "Apriel-1.6-15b-Thinker-fixed": Format(
        thinking=Span("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"),
        calls=_APRIEL_CALLS,
        ends=("<|end|>",),
    ),
    "ByteDance-Seed-OSS": Format(
        thinking=Span("<seed:think>", "</seed:think>\n"),
        calls=Calls(call=_function("", "", "seed:tool_call"), separator="\n", after_words="\n\n"),
        ends=("<seed:eos>",),
    ),
    "Cohere2MoE": _cohere(Span("<|START_TEXT|>", "<|END_TEXT|>")),
    "CohereForAI-c4ai-command-r-plus-tool_use": Format(
        calls=Calls(
            begin="\nAction:\n```json\n[\n    ",
            call=JsonCall(
                name_key="tool_name",
                arguments_key="parameters",
                example=(
                    f'{{\n        "tool_name": "{NAME}",\n        "parameters": {ARGUMENTS}\n    }}'
                ),
            ),
            separator=",\n    ",
            end="\n]```\n",
        ),
        ends=("<|END_OF_TURN_TOKEN|>",),
    ),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": _cohere(
        Span("<|START_RESPONSE|>", "<|END_RESPONSE|>")
    ),
    "GLM-4.6": Format(
        thinking=Span("\n<think>", "</think>\n"),
        calls=Calls(call=_keys_and_values("\n"), separator="\n", after_words="\n"),
        ends=("<|user|>",),
    ),
    "GLM-4.7-Flash": Format(
        thinking=_PLAIN_THINK, calls=Calls(call=_keys_and_values("")), ends=("<|user|>",)
    ),
    "GigaChat3-10B-A1.8B": Format(
        calls=Calls(
            call=json_call("<|message_sep|>\n\nfunction call<|role_sep|>\n"), parallel=False
        )
    ),
    "HuggingFaceTB-SmolLM3-3B": Format(thinking=_PLAIN_THINK, ends=("<|im_end|>",)),
    "Kimi-K2-Instruct": _kimi(),
    "Kimi-K2-Thinking": _kimi(_PLAIN_THINK),
    "LFM2-8B-A1B": _LFM2,
    "LFM2.5-Instruct": msgspec.structs.replace(_LFM2, thinking=_PLAIN_THINK),
    "MiMo-VL": Format(calls=_HERMES_AFTER_WORDS, ends=("<|im_end|>",)),
    "MiniMax-M1": Format(
        calls=Calls(
            begin="<tool_calls>\n",
            call=json_call(),
            separator="\n",
            end="\n</tool_calls>",
        ),
        ends=("<end_of_sentence>",),
    ),
    "MiniMax-M2": Format(
        thinking=THINK,
        calls=Calls(
            begin="\n<minimax:tool_call>\n",
            call=written(
                '<invoke name="',
                NAME,
                '">\n',
                ARGUMENTS,
                "</invoke>",
                arguments=TaggedArguments(
                    key_begin='<parameter name="', key_end='">', value_end="</parameter>\n"
                ),
            ),
            separator="\n",
            end="\n</minimax:tool_call>",
        ),
        ends=("[e~[",),
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": Format(
        calls=Calls(call=written("[TOOL_CALLS]", NAME, "[CALL_ID]", ID, "[ARGS]", ARGUMENTS))
    ),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Format(
        thinking=Span("<think>\n", "\n</think>\n"),
        calls=Calls(call=_function("\n", "\n"), separator="\n", after_words="\n"),
        ends=("<|im_end|>",),
    ),
    "NVIDIA-Nemotron-Nano-v2": Format(
        thinking=_OPEN_THINK,
        calls=Calls(begin="<TOOLCALL>[", call=json_call(), separator=", ", end="]</TOOLCALL>"),
        ends=("<SPECIAL_12>",),
    ),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Format(calls=_HERMES, ends=("<|im_end|>",)),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Format(calls=_HERMES, ends=("<|im_end|>",)),
    "Qwen-QwQ-32B": Format(thinking=_OPEN_THINK, calls=_HERMES_AFTER_WORDS, ends=("<|im_end|>",)),
    "Qwen-Qwen2.5-7B-Instruct": Format(calls=_HERMES_AFTER_WORDS, ends=("<|im_end|>",)),
    "Qwen-Qwen3-0.6B": Format(thinking=THINK, calls=_HERMES_AFTER_WORDS, ends=("<|im_end|>",)),
    "Qwen3-Coder": Format(
        calls=Calls(call=_function("\n", "\n"), separator="\n", after_words="\n\n"),
        ends=("<|im_end|>",),
    ),
    "Qwen3.5-4B": Format(
        thinking=THINK,
        calls=Calls(call=_function("\n", "\n"), separator="\n", after_words="\n\n"),
        ends=("<|im_end|>",),
    ),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": _deepseek(
        _OPEN_THINK, "\n", *_R1_CALL, as_text=True
    ),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": _deepseek(_OPEN_THINK, "\n", *_R1_CALL),
    "deepseek-ai-DeepSeek-V3.1": _deepseek(
        _PLAIN_THINK,
        "",
        "<｜tool▁call▁begin｜>",
        NAME,
        "<｜tool▁sep｜>",
        ARGUMENTS,
        "<｜tool▁call▁end｜>",
    ),
    "deepseek-ai-DeepSeek-V3.2": _dsml(
        "function_calls", "</｜DSML｜parameter>\n", "", "</｜DSML｜invoke>"
    ),
    "deepseek-ai-DeepSeek-V4-Flash-0731": _DSML_4,
    "deepseek-ai-DeepSeek-V4": _DSML_4,
    "fireworks-ai-llama-3-firefunction-v2": Format(
        calls=Calls(begin=" functools[", call=json_call(), separator=", ", end="]"),
        ends=("<|eot_id|>",),
    ),
    "google-gemma-2-2b-it": Format(ends=("<end_of_turn>",)),
    "google-gemma-4-31B-it-interleaved": _gemma("<channel|>", "<turn|>"),
    "google-gemma-4-31B-it": _gemma("\n<channel|>", "<|tool_response>", "<turn|>"),
    "ibm-granite-granite-3.3-2B-Instruct": Format(
        thinking=_PLAIN_THINK,
        answer=Span("<response>", "</response>"),
        calls=Calls(begin="<|tool_call|>[", call=json_call(), separator=", ", end="]"),
        ends=("<|end_of_text|>",),
        family="granite",
    ),
    "ibm-granite-granite-4.0": Format(calls=_HERMES_AFTER_WORDS, ends=("<|end_of_text|>",)),
    "ibm-granite-granite-4.1": Format(calls=_HERMES_AFTER_WORDS, ends=("<|end_of_text|>",)),
    "llama-cpp-deepseek-r1": _deepseek(_OPEN_THINK, "\n", *_R1_CALL),
    "llama-cpp-rwkv-world": Format(thinking=Span(" <think>", "</think>")),
    "meetkai-functionary-medium-v3.1": Format(
        calls=Calls(call=written("<function=", NAME, ">", ARGUMENTS, "</function>")),
        ends=("<|eom_id|>", "<|eot_id|>"),
    ),
    "meetkai-functionary-medium-v3.2": Format(
        answer=Span(">>>all\n", ""),
        calls=Calls(call=written(">>>", NAME, "\n", ARGUMENTS), string_arguments=True),
        ends=("<|eot_id|>",),
    ),
    "meta-llama-Llama-3.1-8B-Instruct": _LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": _LLAMA,
    "meta-llama-Llama-3.3-70B-Instruct": _LLAMA,
    "microsoft-Phi-3.5-mini-instruct": Format(ends=("<|end|>",)),
    "mistralai-Ministral-3-14B-Reasoning-2512": Format(
        thinking=Span("[THINK]", "[/THINK]"), calls=_MISTRAL_13
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": Format(
        calls=Calls(
            begin="[TOOL_CALLS][",
            call=JsonCall(
                id_key="id", example=f'{{"name": "{NAME}", "arguments": {ARGUMENTS}, "id": "{ID}"}}'
            ),
            separator=", ",
            end="]",
        )
    ),
    "moonshotai-Kimi-K2": _kimi(),
    "openai-gpt-oss-120b": Format(
        thinking=Span("<|channel|>analysis<|message|>", "<|end|>"),
        answer=Span("<|channel|>final<|message|>", ""),
        calls=Calls(call=HarmonyCall(), parallel=False),
        ends=("<|return|>", "<|call|>"),
        family="harmony",
    ),
    "poolside-Laguna-S-2.1": Format(
        thinking=_PLAIN_THINK, calls=Calls(call=_keys_and_values("")), ends=("</assistant>",)
    ),
    "poolside-Laguna-XS.2": Format(
        thinking=Span("<think>\n", "\n</think>\n"),
        calls=Calls(call=_keys_and_values("\n"), separator="\n", after_words="\n"),
        ends=("</assistant>",),
    ),
    "unsloth-Apriel-1.5": Format(
        thinking=Span("", "[BEGIN FINAL RESPONSE]"),
        answer=Span("", "[END FINAL RESPONSE]"),
        calls=_APRIEL_CALLS,
        ends=("<|end|>",),
        family="apriel",
    ),
    "unsloth-mistral-Devstral-Small-2507": Format(calls=_MISTRAL_13),
}

"""A whole answer in LM Studio's form."""

from __future__ import annotations

from lmnb.chat.events import Finished
from lmnb.server.generation import Answer
from lmnb.server.lmstudio.schema import ChatResult, MessageOutput, Output, ReasoningOutput, Stats


def chat_result(answer: Answer, response_id: str | None) -> ChatResult:
    """The body of a plain answer, and the `result` of `chat.end`."""
    return ChatResult(
        model_instance_id=answer.finished.instance,
        output=outputs(answer.thinking, answer.text),
        stats=stats(answer.finished),
        response_id=response_id,
    )


def outputs(thinking: str, text: str) -> tuple[Output, ...]:
    """The output items; none for what is empty."""
    found: list[Output] = []
    if thinking:
        found.append(ReasoningOutput(thinking))
    if text:
        found.append(MessageOutput(text))
    return tuple(found)


def stats(end: Finished) -> Stats:
    """Counts and speed."""
    return Stats(
        input_tokens=end.usage.input,
        total_output_tokens=end.usage.output,
        reasoning_output_tokens=end.usage.reasoning,
        tokens_per_second=end.timings.tokens_per_second(end.usage.output),
        time_to_first_token_seconds=end.timings.first_token,
        model_load_time_seconds=end.timings.load,
        total_draft_tokens_count=end.usage.drafted,
        accepted_draft_tokens_count=end.usage.accepted,
        rejected_draft_tokens_count=end.usage.rejected,
    )

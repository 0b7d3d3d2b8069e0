"""Where a model's thinking ends, so that an output format binds its answer and not its thoughts."""

from __future__ import annotations

_MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
"""What families write around their thinking: Qwen and most, Mistral, Seed, MiniMax, Cohere, Gemma."""

_HARMONY = "<|channel|>"
_HARMONY_FINAL = "<|channel|>final<|message|>"
"""gpt-oss: every answer begins with a channel, thinking or not; this one is for the user."""


def span(
    template: str | None, prompt: str, *, wanted: bool | None
) -> tuple[str | None, str | None]:
    """The text that may begin the thinking, and the one that ends it.

    (None, None): the model does not think, or has thought. (None, end): it is thinking when the
    prompt ends. (begin, end): it may begin to think, or answer at once.

    Parameters
    ----------
    template
        The model's chat template: a thinking model's names the markers.
    prompt
        What the template made of the conversation.
    wanted
        Whether the caller wants thinking; None leaves it to the model.
    """
    if template is None:
        return None, None
    if _HARMONY_FINAL in template or (_HARMONY in template and "analysis" in template):
        return None, _HARMONY_FINAL
    ending = prompt.rstrip()
    for begin, end in _MARKERS:
        if begin not in template and end not in template:
            continue
        if ending.endswith(begin):
            return None, end
        if ending.endswith(end) or wanted is False:
            return None, None
        return begin, end
    return None, None

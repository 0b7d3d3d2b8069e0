"""The two cell magics."""

from __future__ import annotations

from lmnb.notebook.ask import AskMagic, Conversation

claude = AskMagic(
    "claude",
    "Ask a local model through the anthropic SDK (Messages).",
    {"messages": "lmnb.notebook.messages"},
)

openai = AskMagic(
    "openai",
    "Ask a local model through the openai SDK (Responses, or Chat Completions with --api chat).",
    {"responses": "lmnb.notebook.responses", "chat": "lmnb.notebook.chat_completions"},
)


def forget() -> None:
    """Start all conversations anew."""
    for magic in (claude, openai):
        magic.conversation = Conversation()

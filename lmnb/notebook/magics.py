"""The two cell magics."""

from __future__ import annotations

from lmnb.notebook import background, conversations
from lmnb.notebook.ask import AskMagic
from lmnb.notebook.models import use

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
    """Start all conversations anew, with no model chosen."""
    use(None)
    background.stop_all()
    conversations.forget()
    for magic in (claude, openai):
        magic.reset()

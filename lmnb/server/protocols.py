"""What the protocols add to the state: their ways with batches."""

from __future__ import annotations

from lmnb.server.anthropic.batch_form import AnthropicForm
from lmnb.server.batches.batch import Form
from lmnb.server.batches.runner import Runner
from lmnb.server.batches.store import BatchStore
from lmnb.server.openai.batch_form import OpenAIForm
from lmnb.server.state import State

_SLOTS = 4
"""Requests computed together by a model that is not loaded yet: the engine's default."""
_POOLED = ("/v1/embeddings", "/v1/rerank")


def make_runner(state: State) -> Runner:
    """The runner of the server's batches."""
    store = BatchStore(state.database, state.home / "batches")
    forms: dict[str, Form] = {"openai": OpenAIForm(state), "anthropic": AnthropicForm()}

    def slots(path: str) -> int:
        """As many as the loaded models of the needed kind compute together."""
        kind = "embedding" if path in _POOLED else "llm"
        loaded = [one for one in state.models.loaded() if one.entry.kind == kind]
        return max((one.config.parallel or 1 for one in loaded), default=_SLOTS)

    return Runner(store, state.files, forms, slots)

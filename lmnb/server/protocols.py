"""What the protocols add to the state: their ways with batches."""

from __future__ import annotations

from lmnb.server.anthropic.batch_form import AnthropicForm
from lmnb.server.batches.batch import Form
from lmnb.server.batches.runner import Runner
from lmnb.server.batches.store import BatchStore
from lmnb.server.openai.batch_form import OpenAIForm
from lmnb.server.state import State


def make_runner(state: State) -> Runner:
    """The runner of the server's batches."""
    store = BatchStore(state.database, state.home / "batches")
    forms: dict[str, Form] = {"openai": OpenAIForm(state), "anthropic": AnthropicForm()}
    return Runner(store, state.files, forms, state.slots)

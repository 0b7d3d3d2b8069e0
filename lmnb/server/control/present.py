"""Models on their way, as `ps` and the stream of events show it."""

from __future__ import annotations

from typing import Any

from lmnb.server.state import State


def coming_and_going(state: State) -> dict[str, Any]:
    """What is being loaded, being unloaded, and not loaded after crashes."""
    manager = state.models
    return {
        "loading": [
            {"id": load.id, "model": load.entry.key, "progress": load.progress}
            for load in manager.loading()
        ],
        "unloading": [
            {"id": instance.id, "model": instance.entry.key, "active": instance.active}
            for instance in manager.leaving()
        ],
        "resting": [
            {
                "model": one.entry.key,
                "crashes": one.count,
                "seconds_left": left,
                "cause": one.error.message,
            }
            for one, left in manager.crashes.resting()
        ],
    }

"""Widgets: panels that show what the server does, and do what `%lm` does.

Each is a module of its name. `ui` shows them; nothing here is imported before.
"""

from __future__ import annotations

NAMES = ("get", "loaded", "load", "server", "chat")
"""The panels, in the order of their tabs."""

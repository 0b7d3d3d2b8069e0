"""The templates that the round trips run with: the project's own, and the published ones beside it."""

from __future__ import annotations

import os
from pathlib import Path

_HERE = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LMNB_SHARED", _HERE.parents[1] / "shared"))

OWN = sorted((_HERE / "templates").glob("*.jinja"))
"""One for each way of writing calls."""
PUBLISHED = sorted((SHARED / "chat-templates").glob("*.jinja"))
"""Those of real models, which belong to their publishers; none if they are not here."""

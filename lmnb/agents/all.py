"""The agents by the names that `launch` knows them by."""

from __future__ import annotations

from lmnb.agents.claude_code import CLAUDE_CODE
from lmnb.agents.codex import CODEX
from lmnb.agents.opencode import OPENCODE

AGENTS = {"claude": CLAUDE_CODE, "codex": CODEX, "opencode": OPENCODE}

"""Codex is told by overrides of its configuration, and by a catalog of models.

Protocols, 2.2. Without an entry in a catalog it does not know the model's context, and offers it no
tool for patches. An override's value is TOML; JSON strings and numbers are TOML, too.
"""

from __future__ import annotations

import json
from typing import Any

from lmnb.agents.command import Agent, Command, Target

_TOKEN = "LM_API_TOKEN"  # noqa: S105 - a variable's name
_PATIENCE = 3_600_000  # Milliseconds: reading a long prompt on a CPU takes minutes.
_INSTRUCTIONS = """\
You are Codex, a coding agent. You work in a folder on the user's machine, through a terminal.

- Find out before you act: read the files that matter, search with `rg` or `grep`, run what can be \
run. Do not guess what a file holds.
- Use the tools for all of it. Commands run in the shell; files are changed with apply_patch, in \
small patches whose context lines are copied exactly from the file.
- Change what the task needs and nothing else, in the style of the code around it. Do not commit, \
and do not revert changes that you have not made, unless you are asked to.
- When something fails, read the message, find the cause and try again. Check the result, with the \
project's own tests if it has any.
- Go on until the task is done. Then say in a few plain sentences what you did, what you found, \
and what is left.
"""


def catalog_entry(target: Target) -> dict[str, Any]:
    """What Codex has to know of the model."""
    return {
        "slug": target.model,
        "display_name": target.model,
        "context_window": target.context,
        "shell_type": "default",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1,
        "truncation_policy": {"mode": "bytes", "limit": 10_000},
        "input_modalities": ["text", "image"] if target.sees else ["text"],
        "base_instructions": _INSTRUCTIONS,
        "support_verbosity": False,
        "default_verbosity": None,
        "supports_parallel_tool_calls": True,
        "supports_reasoning_summaries": True,
        "supported_reasoning_levels": [],
        "experimental_supported_tools": [],
        "apply_patch_tool_type": "freeform",
    }


def _command(target: Target) -> Command:
    target.folder.mkdir(parents=True, exist_ok=True)
    catalog = target.folder / "codex-models.json"
    catalog.write_text(json.dumps({"models": [catalog_entry(target)]}, ensure_ascii=False))
    settings: dict[str, Any] = {
        "model": target.model,
        "model_provider": "lmnb",
        "model_catalog_json": str(catalog),
        "model_providers.lmnb.name": "lmnb",
        "model_providers.lmnb.base_url": f"{target.url}/v1",
        "model_providers.lmnb.wire_api": "responses",
        "model_providers.lmnb.env_key": _TOKEN,
        "model_providers.lmnb.stream_idle_timeout_ms": _PATIENCE,
        "check_for_update_on_startup": False,
        "analytics.enabled": False,
    }
    arguments: list[str] = []
    for name, value in settings.items():
        arguments += ["-c", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    return Command("codex", tuple(arguments), {_TOKEN: target.key})


CODEX = Agent(
    title="Codex",
    program="codex",
    install="npm install -g @openai/codex",
    least=25_000,
    command=_command,
)

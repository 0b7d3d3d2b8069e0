"""opencode takes a configuration from its environment, which goes before the user's files.

Protocols, 2.3. Without `limit` it never sums up a long conversation.
"""

from __future__ import annotations

import json
from typing import Any

from lmnb.agents.command import Agent, Command, Target

_TOKEN = "LM_API_TOKEN"  # noqa: S105 - a variable's name
_PATIENCE = 3_600_000  # Milliseconds: reading a long prompt on a CPU takes minutes.


def _command(target: Target) -> Command:
    return Command(
        "opencode",
        environment={
            "OPENCODE_CONFIG_CONTENT": json.dumps(_config(target), ensure_ascii=False),
            _TOKEN: target.key,
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
        },
    )


def _config(target: Target) -> dict[str, Any]:
    model: dict[str, Any] = {
        "name": target.model,
        "limit": {"context": target.context, "output": target.output},
        "tool_call": True,
        "attachment": target.sees,
        "modalities": {"input": ["text", "image"] if target.sees else ["text"], "output": ["text"]},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "lmnb",
        "options": {
            "baseURL": f"{target.url}/v1",
            "apiKey": f"{{env:{_TOKEN}}}",
            "timeout": False,
            "headerTimeout": _PATIENCE,
            "chunkTimeout": _PATIENCE,
        },
        "models": {target.model: model},
    }
    return {
        "autoupdate": False,
        "share": "disabled",
        "model": f"lmnb/{target.model}",
        "small_model": f"lmnb/{target.model}",
        "provider": {"lmnb": provider},
    }


OPENCODE = Agent(
    title="opencode",
    program="opencode",
    install="npm install -g opencode-ai",
    least=16_000,
    command=_command,
)

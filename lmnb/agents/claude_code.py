"""Claude Code is told everything by its environment.

Protocols, 2.1. Without `CLAUDE_CODE_MAX_CONTEXT_TOKENS` it believes in 200,000 tokens and sums up
too late; the attribution header and the reminder of tokens differ from turn to turn, early in the
prompt; without traffic that is not essential there are no titles, updates, surveys and telemetry.
"""

from __future__ import annotations

from lmnb.agents.command import Agent, Command, Target

_PATIENCE = "3600000"  # Milliseconds: reading a long prompt on a CPU takes minutes.
_ELSEWHERE = (
    "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_VERTEX",
)
"""What would lead it to another server, or bring secrets of another server here."""


def _command(target: Target) -> Command:
    kinds = ("OPUS", "SONNET", "HAIKU", "FABLE")
    return Command(
        "claude",
        environment={
            "ANTHROPIC_BASE_URL": target.url,
            "ANTHROPIC_AUTH_TOKEN": target.key,
            "ANTHROPIC_API_KEY": "",
            "ANTHROPIC_MODEL": target.model,
            **{f"ANTHROPIC_DEFAULT_{kind}_MODEL": target.model for kind in kinds},
            "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(target.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(target.output),
            "API_TIMEOUT_MS": _PATIENCE,
            "CLAUDE_STREAM_IDLE_TIMEOUT_MS": _PATIENCE,
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
        removed=_ELSEWHERE,
    )


CLAUDE_CODE = Agent(
    title="Claude Code",
    program="claude",
    install="npm install -g @anthropic-ai/claude-code",
    least=25_000,
    command=_command,
)

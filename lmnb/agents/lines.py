"""What to copy so that another program uses a loaded model: a few lines for each client."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from functools import partial

from lmnb.agents.all import AGENTS
from lmnb.agents.command import Agent, Target, shell_lines

_HELLO = "Say hello."


def base_urls(url: str) -> str:
    """What clients call the address of a server, on one line."""
    return f"OpenAI clients: base_url {url}/v1 · Anthropic clients: base_url {url}"


def _agent(agent: Agent, target: Target) -> str:
    return shell_lines(agent.command(target), target)


def _openai(target: Target) -> str:
    return f"""\
{_imports(target)}from openai import OpenAI

client = OpenAI(base_url={_quoted(target.url + "/v1")}, api_key={_key(target)})
answer = client.chat.completions.create(
    model={_quoted(target.model)},
    messages=[{{"role": "user", "content": {_quoted(_HELLO)}}}],
)
print(answer.choices[0].message.content)"""


def _anthropic(target: Target) -> str:
    return f"""\
{_imports(target)}from anthropic import Anthropic

client = Anthropic(base_url={_quoted(target.url)}, api_key={_key(target)})
answer = client.messages.create(
    model={_quoted(target.model)},
    max_tokens={target.output},
    messages=[{{"role": "user", "content": {_quoted(_HELLO)}}}],
)
print(answer.content[-1].text)"""


def _curl(target: Target) -> str:
    body = {"model": target.model, "messages": [{"role": "user", "content": _HELLO}]}
    return _posted(target, "/v1/chat/completions", body)


def _lmstudio(target: Target) -> str:
    return _posted(target, "/api/v1/chat", {"model": target.model, "input": _HELLO})


def _posted(target: Target, path: str, body: object) -> str:
    lines = [f"curl {target.url}{path}", "-H 'Content-Type: application/json'"]
    if target.token_file is not None:
        lines.append(f'-H "Authorization: Bearer $(cat {shlex.quote(str(target.token_file))})"')
    lines.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def _key(target: Target) -> str:
    """An expression for the API key. As in `shell_lines`, the token itself is not told."""
    if target.token_file is None:
        return _quoted(target.key)
    return f"Path({_quoted(str(target.token_file))}).read_text().strip()"


def _imports(target: Target) -> str:
    return "" if target.token_file is None else "from pathlib import Path\n\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


CLIENTS: Mapping[str, Callable[[Target], str]] = {
    **{agent.title: partial(_agent, agent) for agent in AGENTS.values()},
    "OpenAI SDK": _openai,
    "Anthropic SDK": _anthropic,
    "curl": _curl,
    "LM Studio's API": _lmstudio,
}
"""The lines for a target, by the client's name."""

"""`--dry-run`: the request that a cell would send, and the prompt that the model would read.

The SDK makes the request as ever, over a transport that sends nothing. So what is shown is what would
be on the wire, word for word.
"""

from __future__ import annotations

import copy
import html
import json
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from lmnb.errors import LmnbError
from lmnb.notebook.api import Api, Request
from lmnb.notebook.output import Bundle

if TYPE_CHECKING:
    from lmnb.client import Client

_LONG = 400
"""Characters of a value without spaces, such as a picture's, that are shown."""


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a cell would have asked.

    `path` and `body` are the request, `prompt` what the model would read, control tokens spelled out,
    and `tokens` its length.
    """

    path: str
    body: dict[str, Any] = field(repr=False)
    prompt: str = field(repr=False)
    tokens: int

    def __str__(self) -> str:
        return self.prompt

    def _repr_mimebundle_(self, **_: Any) -> Bundle:
        asked = json.dumps(_shown(self.body), indent=2, ensure_ascii=False)
        parts = [(f"POST {self.path}", asked), (f"The prompt, {self.tokens} tokens", self.prompt)]
        return {
            "text/html": "".join(_html(title, text) for title, text in parts),
            "text/plain": "\n\n".join(f"{title}\n{text}" for title, text in parts),
        }


def dry_run(client: Client, api: Api, request: Request) -> DryRun:
    """Have the SDK make the request, and the server render its prompt. Nothing is generated."""
    recorder = _Recorder()
    rehearsing = copy.copy(client)
    rehearsing.http = httpx2.Client(transport=recorder, base_url=client.http.base_url)
    resource = api.connect(rehearsing)
    with suppress(LmnbError), closing(api.stream(resource, request)) as parts:
        next(parts)
    assert recorder.path, "the SDK has sent nothing"
    found = client.render(recorder.path, recorder.body)
    return DryRun(recorder.path, recorder.body, found["text"], found["tokens"])


class _Recorder(httpx2.BaseTransport):
    """Keeps the request, and fails as if nobody were there."""

    path = ""
    body: dict[str, Any]

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.path, self.body = request.url.path, json.loads(request.read())
        raise httpx2.ConnectError("This was a dry run.")


def _shown(value: Any) -> Any:
    """Without the bytes of pictures."""
    if isinstance(value, dict):
        return {key: _shown(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, str) and len(value) > _LONG and " " not in value[:_LONG]:
        return f"{value[:40]}… ({len(value)} characters)"
    return value


def _html(title: str, text: str) -> str:
    return (
        f"<div><b>{html.escape(title)}</b></div>"
        f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
    )

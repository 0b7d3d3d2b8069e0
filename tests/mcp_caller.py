"""A scripted model that calls tools of `mcp_server`, and that server over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mcp_server
from made_models.scripted import MARKERS, Answer, scripted

from lmnb.client import Client
from lmnb.engine.options import Segment
from lmnb.server.mcp.pool import Pool
from lmnb.server.mcp.servers import Server
from lmnb.server.mcp.toolset import Toolset, offer, opening

TEMPLATE = (Path(__file__).parent / "templates" / "json_in_tags.jinja").read_text()
CONTROLS = ("<|system|>", "<|user|>", "<|bot|>", "<|tool|>", "<|tools|>", "<call>", "</call>")
SCRIPT = Path(mcp_server.__file__)
SEEN, TWICE, FORCED = MARKERS[:3]
"""What the results of tools have; a question that asks for two calls, of `weather` and `clock`; one
whose call begins before the model says anything."""
WORDS, ANSWER = "I look.", "Now I know."
STDIO: dict[str, Any] = {"command": sys.executable, "args": [str(SCRIPT)]}
assert mcp_server.SEEN == SEEN


def says(*texts: str) -> list[Segment]:
    return [Segment(text, special=True) for text in texts]


@contextmanager
def loaded_caller(client: Client, folder: Path, model: str) -> Iterator[None]:
    """The model calls the only tool it has with a city, and answers once it has the result."""
    city = [Segment("Ulm"), *says('"}}\n</call>')]
    path = scripted(
        folder / "m.gguf",
        [
            Answer(
                [*says(f'{WORDS}\n<call>\n{{"name": "weather", "arguments": {{"city": "'), *city]
            ),
            Answer(
                [
                    *says('<call>\n{"name": "', 'weather", "arguments": {"city": "'),
                    *says('Bern"}}\n</call>\n<call>\n{"name": "'),
                    *says('clock", "arguments": {"zone": "', 'CET"}}\n</call>'),
                ],
                TWICE,
            ),
            Answer(says('Kiel"}}\n</call>'), FORCED),
            Answer(says(ANSWER), SEEN),
        ],
        template=TEMPLATE,
        controls=CONTROLS,
        end="<|end|>",
        seed=None,
        context=1 << 18,
    )
    list(client.load(str(path), identifier=model, context_length=1 << 18, parallel=2))
    yield
    client.unload(model)


@contextmanager
def over_http() -> Iterator[str]:
    """The URL of an MCP server."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "http"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    process.kill()
    process.wait()
    process.stdout.close()


@asynccontextmanager
async def opened(
    pool: Pool, servers: Sequence[Server], *, patience: float
) -> AsyncGenerator[Toolset, None]:
    """The tools of connected servers, without a model."""
    async with opening(pool, servers) as tasks:
        pairs = list(zip(servers, [await task for task in tasks], strict=True))
        yield Toolset(partial(offer, pairs), patience=patience)

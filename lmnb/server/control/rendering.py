"""The prompt that a request would be: `POST /lmnb/render` followed by the path of the public API.

The body is what the public route takes, word for word, so that what is shown is what would be sent.
Answers `{text, tokens}`: see `lmnb.chat.generate.PromptText`.
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.chat.conversation import Request as Asked
from lmnb.server.anthropic import routes as anthropic
from lmnb.server.control.form import answer
from lmnb.server.disconnect import until_disconnect
from lmnb.server.openai import chat, responses
from lmnb.server.reading import render
from lmnb.server.state import state_of

router = APIRouter(prefix="/render")


@router.post("/v1/messages")
async def of_messages(request: Request) -> Response:
    """Of Anthropic's Messages."""
    return await _rendered(request, await anthropic.asked(request))


@router.post("/v1/responses")
async def of_responses(request: Request) -> Response:
    """Of OpenAI's Responses."""
    return await _rendered(request, await (await responses.source_of(request)).first_request())


@router.post("/v1/chat/completions")
async def of_chat(request: Request) -> Response:
    """Of OpenAI's Chat Completions."""
    _, wanted = await chat.read(request)
    return await _rendered(request, wanted[0])


async def _rendered(request: Request, wanted: Asked) -> Response:
    prompt = await until_disconnect(request, render(state_of(request), wanted))
    return answer(msgspec.structs.asdict(prompt))

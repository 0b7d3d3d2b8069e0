"""Tokens of a prompt that an endpoint would render.

There is no one way to ask: lmnb and llama.cpp's server take a chat at
`/v1/chat/completions/input_tokens`, vLLM at `/tokenize`.
"""

from __future__ import annotations

from functools import partial

from lmnb.chat.conversation import Request
from lmnb.chat.documents import showing as documents
from lmnb.errors import EndpointFailed, NotSupported
from lmnb.models.remote.endpoints import Target
from lmnb.models.remote.link import Link
from lmnb.server.remote import request as bodies
from lmnb.server.remote import routing
from lmnb.server.remote.pooling import post
from lmnb.server.state import State

_PROMPT = ("model", "messages", "tools", "chat_template_kwargs", "reasoning_effort")
"""What of the body of a chat makes its prompt."""


async def count(state: State, target: Target, request: Request) -> int:
    """The tokens of a chat's prompt, as one of the endpoints counts them.

    Raises
    ------
    NotSupported
        Its server has no way to tell.
    EndpointFailed, LmnbError
        As for any request.
    """
    sees = target.model.sees is not False
    shown = await documents.shown(request, state.documents, sees=sees)
    return await routing.result(state, target, partial(_ask, target, shown), request.cache_key)


async def _ask(target: Target, request: Request, link: Link) -> int:
    model, flavour = target.at(link)
    if flavour == "other":
        raise NotSupported(
            f"The endpoint {link.name} has no route by which tokens can be counted.",
            hint="The usage of an answer has them.",
            param="model",
        )
    body = bodies.chat_body(request, model, flavour, bodies.tools_of(request))
    asked = {name: body[name] for name in _PROMPT if name in body}
    if flavour == "vllm":
        found = (await post(link, "/tokenize", asked, at_root=True)).get("count")
    else:
        found = (await post(link, "/chat/completions/input_tokens", asked)).get("input_tokens")
    if not isinstance(found, int) or found < 0:
        raise EndpointFailed(f"The endpoint {link.name} did not tell how many tokens there are.")
    return found

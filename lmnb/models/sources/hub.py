"""Models from the Hugging Face Hub, or a mirror named by `HF_ENDPOINT`.

huggingface_hub lists repositories, finds the user's token and says what an answer of the Hub
means; the files are fetched by `transfer`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from lmnb.errors import DownloadFailed, GatedRepository, LmnbError, NoNetwork
from lmnb.models.events import DownloadEvent, Meter, Note, Started
from lmnb.models.record import Record, read_record
from lmnb.models.sources.files import check_space, disk_errors, done_event, models_folder
from lmnb.models.sources.reference import HubReference, endpoint
from lmnb.models.sources.transfer import Remote, Transfer
from lmnb.models.sources.variants import HubFile, Variant, choose, group, projector_for

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_LISTING_SECONDS = 20.0
_MOST_BYTES = 50_000_000_000  # Larger files are served through Xet only, not over plain HTTP.


async def get_from_hub(
    home: Path, reference: HubReference, quantization: str | None
) -> AsyncGenerator[DownloadEvent, None]:
    """Fetch one variant of a repository. Files that are here and right are not fetched again."""
    info = await asyncio.to_thread(_list, reference)
    wanted = quantization or reference.quantization
    files = _files(info)
    variants = group(files)
    variant = choose(variants, reference, wanted)
    projector = projector_for(variant, variants, files)
    folder = models_folder(home) / reference.owner / reference.name
    if variant.label and wanted is None and reference.file is None:
        yield Note(f"Taking {variant.label} of {reference.repository}.")
    async with _client() as client:
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


def _list(reference: HubReference) -> ModelInfo:
    """What is in the repository. Blocks."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), library_name="lmnb", library_version=_version())
    try:
        return api.model_info(
            reference.repository,
            revision=reference.revision,
            files_metadata=True,
            timeout=_LISTING_SECONDS,
        )
    except Exception as error:
        raise _explain(error, reference) from error


def _files(info: ModelInfo) -> list[HubFile]:
    return [
        HubFile(
            path=one.rfilename,
            size=one.size or 0,
            sha256=one.lfs.sha256 if one.lfs else None,
        )
        for one in info.siblings or []
        if one.rfilename.lower().endswith(".gguf")
    ]


def _remote(reference: HubReference, info: ModelInfo, folder: Path, file: HubFile) -> Remote:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

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
        refuse=lambda response: _refused(response, reference),
        describe=lambda digest: _describe(reference, info, digest),
        size=file.size or None,
        sha256=file.sha256,
        headers=build_hf_headers(library_name="lmnb", library_version=_version()),
    )


def _client() -> httpx2.AsyncClient:
    """With the proxies and certificates that huggingface_hub was told to use."""
    from huggingface_hub import get_async_session

    client: httpx2.AsyncClient = get_async_session()
    return client


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
    card = info.card_data
    license_id = card.get("license") if card else None
    return Record(
        source="hub",
        publisher=reference.owner,
        origin=f"{endpoint()}/{reference.repository}",
        revision=info.sha,
        license=license_id if isinstance(license_id, str) else None,
        sha256=digest,
    )


def _version() -> str:
    try:
        return importlib.metadata.version("lmnb")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _refused(response: httpx2.Response, reference: HubReference) -> LmnbError:
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    try:
        hf_raise_for_status(response)
    except Exception as error:  # noqa: BLE001  Every one of them is explained.
        return _explain(error, reference)
    return DownloadFailed(f"The Hub answered {response.status_code} for {reference.repository}.")


def _explain(error: Exception, reference: HubReference) -> LmnbError:
    """The Hub's errors, in terms of what to do."""
    from huggingface_hub import errors

    repository = reference.repository
    login = "log in with `hf auth login`, or set HF_TOKEN"
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return GatedRepository(
            f"{repository} is gated: its authors want their terms accepted.",
            hint=f"Accept them at {endpoint()}/{repository}, {login}, then run this again.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadFailed(f"{repository} has no revision {reference.revision!r}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DownloadFailed(
            f"There is no repository {repository} on the Hub, or it is private.",
            hint=f"Check the spelling; for a private one, {login}.",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return DownloadFailed(f"{repository} has no such file any more.", hint="Run this again.")
    if isinstance(error, errors.HFValidationError):
        return DownloadFailed(f"{repository!r} is not a valid repository name.")
    if status in {401, 403}:
        return GatedRepository(
            f"The Hub refuses access to {repository} ({status}).",
            hint=f"If your token may be the reason, {login}.",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return NoNetwork("HF_HUB_OFFLINE is set, so the Hub is not asked.", hint="Unset it.")
    if status is not None:
        return DownloadFailed(f"The Hub answered {status} for {repository}.", hint="Try later.")
    reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return NoNetwork(
        f"The Hub ({endpoint()}) could not be reached: {reason}.",
        hint="Check the network, or set HF_ENDPOINT to a mirror.",
    )

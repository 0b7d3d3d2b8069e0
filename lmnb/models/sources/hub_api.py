"""What the Hugging Face Hub says, or a mirror named by `HF_ENDPOINT`, and its errors in our words.

huggingface_hub lists repositories, finds the user's token and says what an answer of the Hub means.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING, Any

import httpx2

from lmnb.errors import DownloadFailed, GatedRepository, LmnbError, NoNetwork
from lmnb.models.sources.reference import HubReference, endpoint
from lmnb.models.sources.variants import HubFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

SECONDS = 20.0
"""How long the Hub may be silent."""


def client() -> httpx2.AsyncClient:
    """With the proxies and certificates that huggingface_hub was told to use."""
    from huggingface_hub import get_async_session

    found: httpx2.AsyncClient = get_async_session()
    return found


def headers() -> dict[str, str]:
    """The user's token, if there is one, and who asks."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    found: dict[str, str] = build_hf_headers(library_name="lmnb", library_version=_version())
    return found


def repository(reference: HubReference) -> ModelInfo:
    """What is in the repository, with the sizes and digests of its files. Blocks."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), library_name="lmnb", library_version=_version())
    try:
        return api.model_info(
            reference.repository,
            revision=reference.revision,
            files_metadata=True,
            timeout=SECONDS,
        )
    except Exception as error:
        raise explain(error, reference.repository, reference.revision) from error


def gguf_files(info: ModelInfo) -> list[HubFile]:
    """The GGUF files of a repository."""
    return [
        HubFile(
            path=one.rfilename,
            size=one.size or 0,
            sha256=one.lfs.sha256 if one.lfs else None,
        )
        for one in info.siblings or []
        if one.rfilename.lower().endswith(".gguf")
    ]


def license_of(info: ModelInfo) -> str | None:
    """The licence that the repository states."""
    card = info.card_data
    found = card.get("license") if card else None
    return found if isinstance(found, str) else None


def refused(response: httpx2.Response, subject: str, revision: str) -> LmnbError:
    """The error that a response with an error status is; see `explain`."""
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    try:
        hf_raise_for_status(response)
    except Exception as error:  # noqa: BLE001  Every one of them is explained.
        return explain(error, subject, revision)
    return DownloadFailed(f"The Hub answered {response.status_code} for {subject}.")


def explain(error: Exception, subject: str, revision: str = "main") -> LmnbError:
    """The Hub's errors, in terms of what to do. `subject` is what was asked for: a repository."""
    from huggingface_hub import errors

    login = "log in with `hf auth login`, or set HF_TOKEN"
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return GatedRepository(
            f"{subject} is gated: its authors want their terms accepted.",
            hint=f"Accept them at {endpoint()}/{subject}, {login}, then run this again.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadFailed(f"{subject} has no revision {revision!r}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DownloadFailed(
            f"There is no repository {subject} on the Hub, or it is private.",
            hint=f"Check the spelling; for a private one, {login}.",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return DownloadFailed(f"{subject} has no such file any more.", hint="Run this again.")
    if isinstance(error, errors.HFValidationError):
        return DownloadFailed(f"{subject!r} is not a valid repository name.")
    if status in {401, 403}:
        return GatedRepository(
            f"The Hub refuses access to {subject} ({status}).",
            hint=f"If your token may be the reason, {login}.",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return NoNetwork("HF_HUB_OFFLINE is set, so the Hub is not asked.", hint="Unset it.")
    if status is not None:
        return DownloadFailed(f"The Hub answered {status} for {subject}.", hint="Try later.")
    reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return NoNetwork(
        f"The Hub ({endpoint()}) could not be reached: {reason}.",
        hint="Check the network, or set HF_ENDPOINT to a mirror.",
    )


def _version() -> str:
    try:
        return importlib.metadata.version("lmnb")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

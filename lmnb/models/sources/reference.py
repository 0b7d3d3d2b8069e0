"""Reads what a user names a model by: a repository, a page or file of the Hub, a web address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from lmnb.errors import DownloadFailed

_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What follows owner and name in addresses of the Hub's pages and files.
_PAGES = frozenset({"tree", "blob", "resolve", "raw"})


@dataclass(frozen=True, kw_only=True)
class HubReference:
    """A repository of the Hub, and what of it. `file` is a path in it."""

    owner: str
    name: str
    revision: str = "main"
    file: str | None = None
    quantization: str | None = None

    @property
    def repository(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"


def endpoint() -> str:
    """`HF_ENDPOINT`, else the Hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_url(model: str) -> bool:
    """Whether it is a web address."""
    return model.lower().startswith(("https://", "http://"))


def parse_hub(model: str) -> HubReference | None:
    """A reference to the Hub, or None if `model` is something else.

    Understood: `owner/name`, `owner/name@q4_k_m`, `owner/name:Q4_K_M`, `owner/name/file.gguf`, the
    same after `hf.co/` or `huggingface.co/`, and addresses of pages and files of the Hub.
    """
    text = model.strip()
    if is_url(text):
        address = urlsplit(text)
        if address.netloc.lower() not in _HUB_HOSTS | {urlsplit(endpoint()).netloc.lower()}:
            return None
        return _from_path(unquote(address.path), model)
    host, _, rest = text.partition("/")
    if host.lower() in _HUB_HOSTS:
        return _from_path(rest, model)
    return _from_path(text, model) if "/" in text else None


def _from_path(path: str, model: str) -> HubReference:
    parts = [part for part in path.split("/") if part]
    quantization = None
    if parts and not parts[-1].lower().endswith(".gguf"):
        name, mark, label = parts[-1].replace(":", "@").partition("@")
        if mark:
            parts[-1], quantization = name, label
    if len(parts) < 2 or not all(_NAME.fullmatch(part) for part in parts[:2]):
        raise DownloadFailed(
            f"{model!r} names no repository.",
            hint="Write owner/name, owner/name@q4_k_m, or the address of a .gguf file.",
        )
    owner, name, *rest = parts
    revision = "main"
    if rest and rest[0] in _PAGES and len(rest) > 1:
        revision, rest = rest[1], rest[2:]
    file = "/".join(rest) or None
    if file and not file.lower().endswith(".gguf"):
        # A folder of the repository: repositories of large models keep one for each variant.
        quantization, file = quantization or rest[-1], None
    return HubReference(
        owner=owner, name=name, revision=revision, file=file, quantization=quantization
    )

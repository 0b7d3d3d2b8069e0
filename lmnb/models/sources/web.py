"""A GGUF file at any web address, split ones included."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2

from lmnb.engine.gguf import split_part
from lmnb.errors import DownloadFailed, LmnbError
from lmnb.models.events import DownloadEvent, Meter, Note, Started
from lmnb.models.quantization import without_label
from lmnb.models.record import Record
from lmnb.models.sources.files import done_event, models_folder
from lmnb.models.sources.transfer import Remote, Transfer


async def get_from_url(home: Path, url: str) -> AsyncGenerator[DownloadEvent, None]:
    """Fetch the file at `url`; of a split model, all parts. There is no digest to check."""
    urls = _parts(url)
    folder = models_folder(home) / _host(url) / (without_label(_stem(url)) or _stem(url))
    targets = [folder / _name(one) for one in urls]
    missing = [one for one in zip(urls, targets, strict=True) if not one[1].is_file()]
    if missing:
        names = tuple(target.name for target in targets)
        yield Started(model=url, files=names, total=None)
        yield Note("The address gives no checksum: only the form of the file is checked.")
        async with httpx2.AsyncClient(follow_redirects=True) as client:
            for number, (one, target) in enumerate(missing, 1):
                if len(missing) > 1:
                    yield Note(f"File {number} of {len(missing)}.")
                transfer = Transfer(client, _remote(one, target))
                async with aclosing(transfer.run(Meter(None), 0)) as events:
                    async for event in events:
                        yield event
    else:
        yield Note(f"{targets[0].name} is already downloaded.")
    yield await done_event(home, targets[0])


def _remote(url: str, target: Path) -> Remote:
    return Remote(
        url=url,
        target=target,
        refuse=_refused,
        describe=lambda digest: Record(source="url", origin=url, sha256=digest),
    )


def _name(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _stem(url: str) -> str:
    part = split_part(_name(url))
    return part[0] if part else PurePosixPath(_name(url)).stem


def _host(url: str) -> str:
    return urlsplit(url).hostname or "url"


def _parts(url: str) -> list[str]:
    name = _name(url)
    if not name.lower().endswith(".gguf") or name.startswith("."):
        raise DownloadFailed(
            f"{url} is not the address of a .gguf file.",
            hint="Give the address of the file itself, or owner/name of a Hub repository.",
        )
    part = split_part(name)
    if part is None:
        return [url]
    address = urlsplit(url)
    folder = address.path.rpartition("/")[0]
    return [
        urlunsplit(address._replace(path=f"{folder}/{part[0]}-{no:05d}-of-{part[2]:05d}.gguf"))
        for no in range(1, part[2] + 1)
    ]


def _refused(response: httpx2.Response) -> LmnbError:
    host, status = response.url.host, response.status_code
    if status in {401, 403}:
        return DownloadFailed(
            f"{host} does not let this file be fetched ({status}).",
            hint="Fetch it with your browser, then register it: `lmnb get ./file.gguf`.",
        )
    if status in {404, 410}:
        return DownloadFailed(f"{host} has no such file ({status}): {response.url}.")
    return DownloadFailed(f"{host} answered {status} for {response.url}.")

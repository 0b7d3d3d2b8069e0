"""The GGUF files of a repository as variants, and the choice of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lmnb.engine.gguf import split_part
from lmnb.engine.projector import is_projector, projector_rank
from lmnb.errors import DownloadFailed
from lmnb.models.entry import format_bytes
from lmnb.models.quantization import label_of, normalise, preferred, rank, without_label
from lmnb.models.sources.reference import HubReference

# GGUF files that are no models by themselves.
_ACCESSORIES = ("mmproj", "imatrix")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `sha256` is None for files kept outside of large-file storage."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Variant:
    """The file or files of one quantization, in order."""

    label: str | None
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def stem(self) -> str:
        """The name without quantization, part number and ending."""
        name = self.files[0].path.rpartition("/")[2]
        part = split_part(name)
        return without_label(part[0] if part else name.removesuffix(".gguf"))


def group(files: Iterable[HubFile]) -> list[Variant]:
    """Variants: the parts of a split model belong together. The preferred ones come first."""
    sets: defaultdict[str, dict[int, HubFile]] = defaultdict(dict)
    counts: dict[str, int] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if any(word in name.lower() for word in _ACCESSORIES):
            continue
        part = split_part(name)
        key = f"{folder}/{part[0]}-of-{part[2]}" if part else file.path
        sets[key][part[1] if part else 1] = file
        counts[key] = part[2] if part else 1
    variants = []
    for key, parts in sets.items():
        if len(parts) == counts[key]:
            ordered = tuple(parts[number] for number in sorted(parts))
            variants.append(Variant(label_of(ordered[0].path), ordered))
    return sorted(variants, key=lambda variant: (rank(variant.label), variant.files[0].path))


def choose(variants: list[Variant], reference: HubReference, wanted: str | None) -> Variant:
    """The variant that was asked for by file or quantization; else the preferred one.

    Raises
    ------
    DownloadFailed
        There is none such, or there are several. The message lists what there is.
    """
    if not variants:
        raise DownloadFailed(
            f"{reference.repository} has no GGUF files.",
            hint="Look for a repository of the same model whose name ends in -GGUF.",
        )
    found = variants
    if reference.file:
        found = [v for v in variants if reference.file in {file.path for file in v.files}]
        if not found:
            raise DownloadFailed(
                f"{reference.repository} has no file {reference.file}. {_list(variants)}"
            )
    if wanted:
        label = normalise(wanted)
        found = [v for v in found if v.label == label] or [
            v for v in found if (v.label or "").removeprefix("UD-") == label
        ]
        if not found:
            raise DownloadFailed(
                f"{reference.repository} has no {label}. {_list(variants)}", param="quantization"
            )
    elif not reference.file:
        best = preferred(v.label or "" for v in found)
        found = [v for v in found if (v.label or "") == best]
    if len({v.stem for v in found}) > 1:
        files = ", ".join(v.files[0].path for v in found)
        raise DownloadFailed(
            f"{reference.repository} holds several models: {files}.",
            hint=f"Name one: {reference.repository}/{found[0].files[0].path}",
        )
    return found[0]


def projector_for(
    variant: Variant, variants: list[Variant], files: Iterable[HubFile]
) -> HubFile | None:
    """The file with the encoder for images and sounds that belongs to a variant, if there is one.

    In a repository of several models it has the name of its own in its name.
    """
    alone = len({one.stem for one in variants}) == 1
    found = [
        file
        for file in files
        if is_projector(file.path.rpartition("/")[2])
        and (alone or variant.stem.lower() in file.path.lower())
    ]
    return min(found, key=lambda file: projector_rank(file.path.rpartition("/")[2]), default=None)


def _list(variants: list[Variant]) -> str:
    shown = ", ".join(
        f"{v.label or v.files[0].path} ({format_bytes(v.size)})" for v in variants[:30]
    )
    return f"It has {shown}."

"""A model on this machine, as the catalog describes it from the header of its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmnb.engine.gguf import Kind


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One set of files that can be loaded.

    key
        The unique name: `publisher/name`, with `@quantization` unless it is the variant that the
        bare name means. The two built-in models go without a publisher.
    path
        The file, or part 1 of a split model.
    bits_per_weight
        The average over the file.
    size_bytes
        Of all parts together.
    params_string
        Such as `135M`: the size label of the file, or made from `parameters`.
    max_context_length
        Tokens the model was trained for; None if the file does not say.
    reranks
        It scores pairs of texts, and embeds none, though its kind is `embedding`.
    source
        `builtin`, `hub`, `url`, `local`, `huggingface-cache`, `lm-studio` or `models` (a file
        that somebody put into the folder).
    origin
        Where it came from, for people: a web address or a path.
    variants
        Names of all quantizations of this model here, if there is more than one.
    """

    key: str
    publisher: str
    display_name: str
    path: Path
    kind: Kind
    architecture: str
    quantization: str | None
    bits_per_weight: float | None
    size_bytes: int
    parameters: int
    params_string: str | None
    max_context_length: int | None
    source: str
    origin: str | None = None
    license: str | None = None
    variants: tuple[str, ...] = ()
    reranks: bool = False
    format: Literal["gguf"] = "gguf"

    @property
    def base_key(self) -> str:
        """The key without the quantization."""
        return self.key.split("@", 1)[0]

    @property
    def variant(self) -> str:
        """The key with the quantization, whether or not this is the selected variant."""
        return variant_name(self.base_key, self.quantization)

    @property
    def is_selected(self) -> bool:
        """Whether the bare name means this variant."""
        return "@" not in self.key


def variant_name(key: str, quantization: str | None) -> str:
    """`publisher/name@q4_k_m`."""
    return f"{key}@{quantization.lower()}" if quantization else key


def format_parameters(count: int) -> str | None:
    """`135M`, `7.6B`."""
    if count <= 0:
        return None
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.0f}{unit}" if number >= 100 else f"{number:.1f}{unit}"
    return str(count)


def format_bytes(count: int) -> str:
    """`98 MB`, `4.7 GB`: decimal units, as disks and downloads are labelled."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{count} bytes"

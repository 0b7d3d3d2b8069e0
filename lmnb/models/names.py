"""What a model's name may look like, and what to say when it fits nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lmnb.errors import ModelNotFound
from lmnb.models.builtin import BUILTIN, DEFAULT_LLM
from lmnb.models.entry import ModelEntry

_GGUF_SUFFIX = re.compile(r"[-_.]gguf$", re.IGNORECASE)
# LM Studio puts this before the keys of embedding models, so clients' settings have it.
_EMBEDDING_PREFIX = "text-embedding-"


def without_gguf(name: str) -> str:
    """`Qwen2.5-7B-Instruct-GGUF` → `Qwen2.5-7B-Instruct`."""
    return _GGUF_SUFFIX.sub("", name)


def display_name(name: str) -> str:
    """`Qwen2.5-7B-Instruct-GGUF` → `Qwen2.5 7B Instruct`."""
    return re.sub(r"[-_]+", " ", without_gguf(name)).strip()


def match(name: str, entries: Sequence[ModelEntry]) -> ModelEntry | None:
    """The entry that `name` means; None if there is none.

    Raises
    ------
    ModelNotFound
        The name fits several models.
    """
    wanted = name.strip().casefold()
    for spelling in (wanted, wanted.removeprefix(_EMBEDDING_PREFIX)):
        for names_of in (_keys, _repositories, _short_names):
            found = _select(spelling, entries, names_of)
            if found:
                return found
    return None


def _select(
    wanted: str, entries: Sequence[ModelEntry], names_of: Callable[[ModelEntry], Iterable[str]]
) -> ModelEntry | None:
    found = [entry for entry in entries if wanted in {n.casefold() for n in names_of(entry)}]
    # A name without a quantization means the selected variant of a model.
    found = [entry for entry in found if entry.is_selected] or found
    if len(found) > 1:
        choices = ", ".join(sorted(entry.key for entry in found))
        raise ModelNotFound(
            f"{wanted!r} could be any of these models: {choices}.",
            hint="Use the full name.",
            param="model",
        )
    return found[0] if found else None


def _keys(entry: ModelEntry) -> Iterable[str]:
    return entry.key, entry.variant


def _repositories(entry: ModelEntry) -> Iterable[str]:
    base, _, name = entry.base_key.rpartition("/")
    for ending in ("-gguf", "_gguf", ".gguf"):
        repository = f"{base}/{name}{ending}" if base else f"{entry.publisher}/{name}{ending}"
        yield repository
        yield from _with_quantization(repository, entry)
    if not base:
        yield f"{entry.publisher}/{name}"
    yield from _with_quantization(entry.base_key, entry)


def _with_quantization(name: str, entry: ModelEntry) -> Iterable[str]:
    if entry.quantization:
        yield f"{name}@{entry.quantization}"
        yield f"{name}:{entry.quantization}"


def _short_names(entry: ModelEntry) -> Iterable[str]:
    yield entry.key.rpartition("/")[2]
    yield entry.variant.rpartition("/")[2]
    yield entry.path.name
    yield entry.path.stem
    for name in _repositories(entry):
        yield name.rpartition("/")[2]


def as_path(name: str) -> Path | None:
    """The file that `name` is the path of, if it is one."""
    # Names come over the network too: nobody is told which other files exist.
    if not name.lower().endswith(".gguf"):
        return None
    try:
        path = Path(name).expanduser()
        return path.absolute() if path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def not_found(name: str, entries: Sequence[ModelEntry]) -> ModelNotFound:
    """The error for a name that fits nothing."""
    if (key := name.strip().lower()) in BUILTIN:
        return ModelNotFound(
            f"The model {key} is not downloaded.",
            hint=f"Fetch it with `lmnb get {key}`.",
            param="model",
        )
    if not entries:
        return ModelNotFound(
            f"There is no model {name!r}: nothing is downloaded yet.",
            hint=f"Fetch the default model {DEFAULT_LLM.key} with `lmnb get`.",
            param="model",
        )
    keys = [entry.key for entry in entries]
    close = difflib.get_close_matches(name.lower(), keys, n=1, cutoff=0.6)
    shown = close or keys[:8]
    guess = f"Did you mean {close[0]}?" if close else f"Downloaded: {', '.join(shown)}."
    return ModelNotFound(
        f"There is no model {name!r} here. {guess}",
        hint="`lmnb ls` lists the models that are here, `lmnb get` fetches others.",
        param="model",
    )

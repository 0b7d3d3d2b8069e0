"""The models on this machine: what lies in the folders, under which names.

Three places are looked through: `$LMNB_HOME/models`, LM Studio's folder and the Hugging Face
cache. Everything known of a model comes from the header of its file and from the record beside it;
headers are read once per file and modification time.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lmnb.engine.gguf import RANK, Header, read_header, split_part, split_paths
from lmnb.errors import InvalidModel, ModelNotFound
from lmnb.models import names
from lmnb.models.builtin import BUILTIN
from lmnb.models.entry import ModelEntry, format_parameters, variant_name
from lmnb.models.places import Found, Place, default_places, walk
from lmnb.models.quantization import label_of, rank, without_label


@dataclass(frozen=True)
class _Facts:
    """What the files of one model say. `stamp` tells whether they have changed since."""

    stamp: tuple[tuple[int, int], ...]
    header: Header | None
    size: int
    parameters: int
    problem: InvalidModel | None = None


class Catalog:
    """The models that can be loaded.

    Parameters
    ----------
    home
        `$LMNB_HOME`.
    places
        Where else to look; default LM Studio's folder and the Hugging Face cache.
    """

    def __init__(self, home: Path, *, places: Iterable[Place] | None = None) -> None:
        self.home = home
        own = Place("models", home / "models")
        self._places = (own, *(default_places() if places is None else places))
        self._facts: dict[Path, _Facts] = {}
        self._entries: list[ModelEntry] = []
        self._problems: dict[Path, InvalidModel] = {}
        self._lock = threading.Lock()

    async def entries(self) -> list[ModelEntry]:
        """All models, by key; a model in several quantizations has an entry for each."""
        return await asyncio.to_thread(self.scan)

    async def resolve(self, name: str) -> ModelEntry:
        """The model that `name` means.

        A name is, in this order and whatever its case: a key (`publisher/name`, with or without
        `@quantization`), a repository (`owner/Name-GGUF`), the last part of a key or a file's
        name, or the path of a file.

        Raises
        ------
        ModelNotFound
            No model has that name, or several have.
        InvalidModel
            The file of that name is damaged.
        """
        return await asyncio.to_thread(self.find, name)

    def problems(self) -> dict[Path, InvalidModel]:
        """Files of the last scan that look like models but cannot be loaded, and why."""
        return dict(self._problems)

    def find(self, name: str) -> ModelEntry:
        """`resolve`, on the calling thread."""
        # The last scan first: looking through the folders for every request would be wasteful.
        with suppress(ModelNotFound):
            known = names.match(name, self._entries)
            if known and known.path.exists():
                return known
        entries = self.scan()
        if found := names.match(name, entries):
            return found
        if path := names.as_path(name):
            return self._from_path(path)
        for file, problem in self._problems.items():
            if name.casefold() in {file.name.casefold(), file.stem.casefold()}:
                raise problem
        raise names.not_found(name, entries)

    def scan(self) -> list[ModelEntry]:
        """`entries`, on the calling thread."""
        with self._lock:
            self._problems = {}
            items = [item for place in self._places for item in walk(place)]
            found = list(self._readable(items))
            self._facts = {item.path: self._facts[item.path] for item in items}
            self._entries = _name_variants(_make_entries(found))
            return list(self._entries)

    def _readable(self, items: Iterable[Found]) -> Iterator[tuple[Found, _Facts]]:
        for item in items:
            facts = self._read(item.path)
            if facts.problem:
                self._problems[item.path] = facts.problem
            elif facts.header and facts.header.type == "model":
                yield item, facts

    def _read(self, path: Path) -> _Facts:
        known = self._facts.get(path)
        facts = _read_facts(path, known)
        self._facts[path] = facts
        return facts

    def _from_path(self, path: Path) -> ModelEntry:
        with self._lock:
            for entry in self._entries:
                if entry.path.exists() and entry.path.samefile(path):
                    return entry
            facts = self._read(path)
        if facts.problem:
            raise facts.problem
        found = Found(Place("local", path.parent), path, "local", path.stem, None)
        [entry] = _make_entries([(found, facts)])
        return replace(entry, key=_stem(path).lower(), source="local", origin=str(path))


def _stem(path: Path) -> str:
    part = split_part(path.name)
    return part[0] if part else path.stem


def _read_facts(path: Path, known: _Facts | None) -> _Facts:
    parts = split_paths(path)
    try:
        states = [part.stat() for part in parts]
    except OSError as error:
        missing = Path(error.filename or path).name
        problem = InvalidModel(
            f"{missing} is missing or cannot be read ({error.strerror}).",
            hint=f"All {len(parts)} parts must lie in one folder." if len(parts) > 1 else None,
        )
        return _Facts((), None, 0, 0, problem)
    stamp = tuple((state.st_size, state.st_mtime_ns) for state in states)
    if known and known.stamp == stamp:
        return known
    try:
        headers = [read_header(part) for part in parts]
    except InvalidModel as error:
        return _Facts(stamp, None, 0, 0, error)
    return _Facts(
        stamp,
        headers[0],
        sum(state.st_size for state in states),
        sum(header.parameters for header in headers),
    )


def _make_entries(found: list[tuple[Found, _Facts]]) -> list[ModelEntry]:
    """Entries under their base keys, the first place first."""
    stems: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for item, _ in found:
        stems[item.publisher, item.name].add(without_label(_stem(item.path)))
    entries = []
    for item, facts in found:
        # A folder with several models in it: their own names tell them apart.
        several = len(stems[item.publisher, item.name]) > 1
        name = without_label(_stem(item.path)) if several else item.name
        entries.append(_make_entry(item, facts, name))
    return entries


def _make_entry(item: Found, facts: _Facts, name: str) -> ModelEntry:
    header, record = facts.header, item.record
    assert header is not None
    bits = round(facts.size * 8 / facts.parameters, 2) if facts.parameters else None
    key = (record and record.key) or f"{item.publisher}/{names.without_gguf(name)}".lower()
    return ModelEntry(
        key=key,
        publisher=(record and record.publisher) or item.publisher,
        display_name=(record and record.display_name) or names.display_name(name),
        path=item.path,
        kind=header.kind,
        architecture=header.architecture,
        quantization=label_of(item.path.as_posix()) or header.quantization,
        bits_per_weight=header.bits_per_weight if header.split_count == 1 else bits,
        size_bytes=facts.size,
        parameters=facts.parameters,
        params_string=header.text("general.size_label") or format_parameters(facts.parameters),
        max_context_length=header.context_length,
        reranks=header.pooling_type == RANK,
        source=record.source if record else item.place.source,
        origin=record.origin if record else None,
        license=(record and record.license) or header.text("general.license"),
    )


def _name_variants(entries: list[ModelEntry]) -> list[ModelEntry]:
    """Give every file set its own key: the preferred quantization keeps the bare one."""
    groups: defaultdict[str, dict[str, ModelEntry]] = defaultdict(dict)
    for entry in entries:
        # The same variant in a second place is the same model: the first place has it.
        groups[entry.key].setdefault(entry.quantization or "", entry)
    named = []
    for key, variants in groups.items():
        built_in = BUILTIN.get(key)
        order = sorted(
            variants,
            key=lambda label: (built_in is None or label != built_in.quantization, rank(label)),
        )
        every = tuple(variant_name(key, label) for label in order) if len(order) > 1 else ()
        for place, label in enumerate(order):
            name = key if place == 0 else variant_name(key, label)
            named.append(replace(variants[label], key=name, variants=every))
    return sorted(named, key=lambda entry: entry.key)

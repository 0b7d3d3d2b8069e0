"""LoRA adapters: small weight changes that are loaded with a model and chosen by each request.

llama.cpp applies one set of adapters to a whole forward pass. So requests with equal sets are
computed together, and the groups take turns (`turns`). What one set has computed is useless to
another: the KV cache knows the tokens of a request by its set's own names for them (`keys`).
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from lmnb.engine import native
from lmnb.engine.config import LoadAdapter
from lmnb.engine.ggml import TENSOR_TYPES
from lmnb.engine.gguf import Header, TensorInfo, read_header
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.options import AdapterChoice
from lmnb.engine.positions import TELLING_BITS
from lmnb.engine.prefixes import Tokens
from lmnb.errors import InvalidModel, InvalidRequest, LmnbError, NotSupported

MAX_SCALE = 1000.0
"""Beyond this, up or down, nothing but values that are not numbers would come out."""
_NO_PRODUCT = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})
"""Tensor types that cannot be the left side of a matrix product in ggml."""
_ALPHA = "adapter.lora.alpha"
_FLOAT32 = 6  # gguf.h, enum gguf_type


@dataclass(frozen=True, eq=False)
class AdapterSet:
    """Adapters by number, with their scales, in order; none of the scales is 0.

    Equal sets are the same object (`Adapters.choose`), since every step compares all requests'.
    """

    scales: tuple[tuple[int, float], ...] = ()
    salt: Tokens | None = None

    def keys(self, tokens: Tokens) -> Tokens:
        """What tokens computed with this set are called in the KV cache, (length,).

        Those of different sets are different, but for the chance that hashes are equal, and depend
        on nothing but the tokens and the adapters' content and scales.
        """
        if self.salt is None:
            return tokens
        return tokens ^ np.resize(self.salt, len(tokens))


PLAIN = AdapterSet()
"""The model as it is."""


@dataclass(frozen=True)
class _Adapter:
    given: LoadAdapter
    handle: Any
    digest: bytes


class Adapters:
    """The adapters of a model. llama.cpp wants them loaded before the context is created."""

    def __init__(self, model: Model, wanted: Iterable[LoadAdapter]) -> None:
        self._adapters: list[_Adapter] = []
        self._applied = PLAIN
        self._sets = WeakValueDictionary[tuple[tuple[int, float], ...], AdapterSet]()
        for adapter in wanted:
            name = adapter.name or Path(adapter.path).stem
            if name in self.names:
                raise InvalidRequest(
                    f"Two adapters are named {name!r}.", hint="Name them apart.", param="adapters"
                )
            scale = _checked_scale(adapter.scale, name, "adapters")
            given = msgspec.structs.replace(adapter, name=name, scale=scale)
            self._adapters.append(_Adapter(given, *_load(model, Path(adapter.path))))

    @property
    def loaded(self) -> tuple[LoadAdapter, ...]:
        """The adapters, with their names."""
        return tuple(adapter.given for adapter in self._adapters)

    @property
    def names(self) -> list[str | None]:
        """In the order in which they were given; a position in it is an adapter's number."""
        return [adapter.given.name for adapter in self._adapters]

    def choose(self, wanted: Iterable[AdapterChoice] | None) -> AdapterSet:
        """The set a request asks for; None is every adapter at the scale it was loaded with.

        Raises
        ------
        InvalidRequest
            There is no such adapter, it is named twice, or its scale is out of range.
        """
        if wanted is None:
            return self._set({n: adapter.scale for n, adapter in enumerate(self.loaded)})
        scales: dict[int, float] = {}
        for choice in wanted:
            number = self._number(choice.adapter)
            if number in scales:
                raise InvalidRequest(f"Adapter {choice.adapter!r} is named twice.", param="lora")
            scales[number] = _checked_scale(choice.scale, choice.adapter, "lora")
        return self._set(scales)

    def apply(self, context: Any, chosen: AdapterSet) -> None:
        """Have the forward passes of a context use a set from now on."""
        if chosen is self._applied:
            return
        count = len(chosen.scales)
        handles = [self._adapters[number].handle for number, _ in chosen.scales]
        scales = [scale for _, scale in chosen.scales]
        L.llama_set_adapters_lora(
            context,
            (L.llama_adapter_lora_p_ctypes * max(1, count))(*handles),
            count,
            (ctypes.c_float * max(1, count))(*scales),
        )
        self._applied = chosen

    def _number(self, wanted: str | int) -> int:
        names = self.names
        if isinstance(wanted, str) and wanted in names:
            return names.index(wanted)
        if isinstance(wanted, int) and 0 <= wanted < len(names):
            return wanted
        known = ", ".join(f"{name!r} ({number})" for number, name in enumerate(names))
        raise InvalidRequest(
            f"The model is loaded without an adapter {wanted!r}.",
            hint=f"It has {known}." if known else "Load it with its adapters: lmnb load --adapter.",
            param="lora",
        )

    def _set(self, scales: dict[int, float]) -> AdapterSet:
        used = tuple(sorted((number, scale) for number, scale in scales.items() if scale))
        if not used:
            return PLAIN
        if (known := self._sets.get(used)) is not None:
            return known
        digest = hashlib.blake2b(digest_size=32)
        for number, scale in used:
            digest.update(self._adapters[number].digest + np.float32(scale).tobytes())
        # A key tells as a token does whether it takes a position.
        salt = np.frombuffer(digest.digest(), np.int32) & np.int32(~TELLING_BITS)
        made = self._sets[used] = AdapterSet(used, salt)
        return made


def _load(model: Model, path: Path) -> tuple[Any, bytes]:
    """An adapter's handle, and the hash of its content."""
    try:
        _check(model.header, read_header(path), path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        raise InvalidModel(
            f"The adapter {path} cannot be read: {error.strerror or error}.", param="adapters"
        ) from error
    except LmnbError as error:
        error.param = "adapters"
        raise
    handle = L.llama_adapter_lora_init(model.handle, str(path).encode())
    if not handle:
        raise _refused(path)
    if L.llama_adapter_get_alora_n_invocation_tokens(handle):
        raise NotSupported(
            f"The adapter {path.name} is an activated LoRA (aLoRA), which is not supported.",
            param="adapters",
        )
    return handle, digest


def _refused(path: Path) -> InvalidModel:
    reasons = [line for line in native.log.errors() if "lora" in line.lower()]
    reason = reasons[-1].rsplit("adapter: ", 1)[-1].strip() if reasons else "no reason was given"
    return InvalidModel(
        f"llama.cpp cannot use the adapter {path.name}: {reason}.",
        hint="An adapter fits the model it was trained for only.",
        param="adapters",
    )


def _check(base: Header, header: Header, path: Path) -> None:
    """Refuse what llama.cpp would answer with an assertion, at once or in the first forward pass."""
    if header.type != "adapter" or header.text("adapter.type") != "lora":
        raise InvalidModel(f"{path.name} is no LoRA adapter.")
    if header.architecture != base.architecture:
        raise InvalidModel(
            f"The adapter {path.name} is for models of the architecture {header.architecture!r}; "
            f"this one is {base.architecture!r}.",
            hint="An adapter fits the model it was trained for only.",
        )
    alpha = header.metadata.get(_ALPHA, 0.0)
    is_number = isinstance(alpha, float) and math.isfinite(alpha)
    if not is_number or native.gguf_type(path, _ALPHA) not in {None, _FLOAT32}:
        raise InvalidModel(f"{path.name}: {_ALPHA} must be a number (float32).")
    experts = base.integer(f"{base.architecture}.expert_count") or 1
    tensors = {tensor.name: tensor for tensor in header.tensors}
    pairs = {name.rsplit(".lora_", 1)[0] for name in tensors if ".lora_" in name}
    if not pairs:
        raise InvalidModel(f"The adapter {path.name} changes nothing.")
    for name in pairs:
        a, b = tensors.get(f"{name}.lora_a"), tensors.get(f"{name}.lora_b")
        if a is not None and b is not None and not _multiply(name, a, b, experts):
            raise InvalidModel(f"The adapter {path.name} is damaged: {name} does not multiply.")


def _multiply(name: str, a: TensorInfo, b: TensorInfo, experts: int) -> bool:
    """Whether the two factors of a weight's change fit each other. Shapes as ggml has them."""
    for tensor in (a, b):
        known = TENSOR_TYPES.get(tensor.type)
        if known is None or known.name in _NO_PRODUCT or not tensor.elements:
            return False
        depth = experts if "_exps" in name else 1
        if (*tensor.shape, 1, 1, 1)[2:4] != (depth, 1):
            return False
    rank = 0 if name.startswith("token_embd") else 1  # the embedding's first factor is transposed
    return len(a.shape) >= 2 and a.shape[rank] == b.shape[0]


def _checked_scale(scale: float, name: str | int, param: str) -> float:
    if not abs(scale) <= MAX_SCALE:  # also: not a number
        raise InvalidRequest(
            f"The scale of adapter {name!r} must lie between -{MAX_SCALE:g} and {MAX_SCALE:g}.",
            param=param,
        )
    return float(np.float32(scale))

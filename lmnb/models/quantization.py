"""Quantization labels in file names, and which one to take when none was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_LABEL = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:UD-)?(?:I?Q[1-8](?:_(?:K|[0-9]|XXS|XS|S|M|L|XL|NL))*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4"
    r"|BF16|FP?16|FP?32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)

# Q4_K_M is the usual balance of size and quality. After it: its neighbours, then what is larger,
# then what is smaller (which loses quality), and the full-precision files last.
_PREFERENCE = (
    "Q4_K_M",
    "UD-Q4_K_XL",
    "Q4_K_L",
    "Q4_K_S",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_1",
    "Q4_0",
    "MXFP4",
    "MXFP4_MOE",
    "NVFP4",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q6_K",
    "Q8_0",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_M",
    "Q3_K_S",
    "IQ3_S",
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K",
)
_RANKS = {name: rank for rank, name in enumerate(_PREFERENCE)}


def label_of(path: str) -> str | None:
    """The quantization a file name states (the last label in it), else that of its folder."""
    pure = PurePosixPath(path)
    for part in (pure.name.removesuffix(".gguf"), pure.parent.name):
        found = _LABEL.findall(part)
        if found:
            return normalise(found[-1])
    return None


def normalise(label: str) -> str:
    """`q4_k_m` and `q4-k-m` → `Q4_K_M`; `fp16` → `F16`."""
    label = label.strip().upper()
    prefix = "UD-" if label.startswith("UD-") else ""
    label = label[len(prefix) :].replace("-", "_")
    return prefix + {"FP16": "F16", "FP32": "F32"}.get(label, label)


def without_label(name: str) -> str:
    """A file's stem without its quantization, to tell different models in one folder apart."""
    return _LABEL.sub("", name).strip("-_. ").lower()


def rank(label: str | None) -> tuple[int, str]:
    """Sort key: the preferred quantization first."""
    full = {"BF16": 101, "F16": 102, "F32": 103}
    return (full.get(label or "", _RANKS.get(label or "", 50)), label or "")


def preferred(labels: Iterable[str]) -> str:
    """The quantization to take when none was asked for."""
    return min(labels, key=rank)

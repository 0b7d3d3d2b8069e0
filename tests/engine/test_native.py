"""What is known of a build of llama.cpp before it computes anything."""

from __future__ import annotations

import pytest

from lmnb.engine import native
from lmnb.engine.gguf import Header, TensorInfo

WITH_AMX = "CPU : AVX512 = 1 | AMX_INT8 = 1 | REPACK = 1 |"
F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8


@pytest.mark.parametrize(
    ("info", "types", "expected"),
    [
        (WITH_AMX, (F32, Q8_0), False),
        (WITH_AMX, (F16, F32, Q4_0), False),
        (WITH_AMX, (F32, F16), True),  # computed without AMX instructions
        ("CPU : AVX2 = 1 |", (F32, Q8_0), True),
    ],
)
def test_quantised_weights_stay_out_of_amx(
    info: str, types: tuple[int, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "system_info", lambda: info)
    tensors = tuple(TensorInfo(f"blk.{n}", (32, 32), kind, 0) for n, kind in enumerate(types))
    assert native.extra_buffers_work(Header(3, {}, tensors, 0)) is expected


def test_split_models_stay_out_of_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "system_info", lambda: WITH_AMX)
    header = Header(3, {"split.count": 2}, (TensorInfo("a", (32, 32), F16, 0),), 0)
    assert native.extra_buffers_work(header) is False

"""What is known of a build of llama.cpp before it computes anything."""

from __future__ import annotations

import pytest

from lmnb.engine import native


@pytest.mark.parametrize(
    ("info", "expected"),
    [("CPU : AVX512 = 1 | AMX_INT8 = 1 | REPACK = 1 |", False), ("CPU : AVX2 = 1 |", True)],
)
def test_weights_stay_out_of_amx(
    info: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "system_info", lambda: info)
    assert native.extra_buffers_work() is expected

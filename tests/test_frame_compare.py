"""`lmnb.compare`: a row for each prompt, model, setting and sample, by the real small model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from server_home import CHAT, EMBEDDING, ServerHome

import lmnb
from lmnb.client import Client
from lmnb.errors import InvalidRequest, ModelNotFound
from lmnb.frame import run

FRANCE, SKY = "What is the capital of France? Answer in one sentence.", "What colour is the sky?"


@pytest.fixture(autouse=True)
def asked(server: ServerHome, home: Path) -> Iterator[Client]:
    """The shared server, and a cache that is empty again afterwards."""
    yield server.attach()
    for path in (home / "cache").glob("tables.db*"):
        path.unlink()


def compare(prompts: Any = FRANCE, **options: Any) -> pd.DataFrame:
    return lmnb.compare(prompts, **{"models": CHAT, "max_tokens": 8, **options})


def test_a_row_for_each_prompt_setting_and_sample(asked: Client) -> None:
    found = compare([FRANCE, SKY], temperature=[0, 1.5], samples=2)
    assert list(found.columns) == [
        "prompt", "model", "max_tokens", "temperature", "sample",
        "text", "error", "finish_reason", "tokens", "seconds", "tokens_per_second",
    ]  # fmt: skip
    assert found["prompt"].tolist() == [FRANCE] * 4 + [SKY] * 4
    assert found["temperature"].tolist() == [0, 0, 1.5, 1.5] * 2
    assert found["sample"].tolist() == [0, 1] * 4
    assert "Paris" in found["text"][0]
    assert found["text"][0] == found["text"][1]  # asked once
    assert found["text"][2] != found["text"][3]  # seeds of their own
    assert found["error"].isna().all()
    assert found["finish_reason"].isin(["stop", "length"]).all()
    assert (found["tokens"] <= 8).all()
    assert (found["seconds"] > 0).all()
    assert found["tokens_per_second"].notna().all()

    asked.unload(all=True)
    again = compare([FRANCE, SKY], temperature=[0, 1.5], samples=2)
    assert asked.ps() == []
    assert again.attrs["lmnb"]["cached"] == 8
    pd.testing.assert_frame_equal(found, again)
    assert compare(temperature=[0, 0.5]).attrs["lmnb"]["cached"] == 1


def test_every_setting_may_be_compared() -> None:
    found = compare(system=[None, "Answer in French."], stop=[["."], ["France"]], seed=3)
    assert found["system"].isna().tolist() == [True, True, False, False]
    assert found["stop"].tolist() == [["."], ["France"]] * 2
    assert "France" not in found["text"][1]
    assert found["text"][0] != found["text"][2]


def test_what_fails_is_an_error_row() -> None:
    models = [CHAT, "nobody/has-this", EMBEDDING]
    found = compare([FRANCE, "word " * 9000], models=models, temperature=[0, -1])
    failed = found["error"].notna()
    assert failed.tolist() == [False] + [True] * 11
    assert found["text"].isna().equals(failed.rename("text"))
    assert "temperature" in found["error"][1]
    assert "nobody/has-this" in found["error"][2]
    assert "embed" in found["error"][4]
    assert "context" in found["error"][6]
    assert found.attrs["lmnb"] | {"tokens": 0} == {
        "ok": 1, "error": 11, "null": 0, "cached": 0, "tokens": 0,
    }  # fmt: skip
    assert compare(FRANCE, models=models).attrs["lmnb"]["cached"] == 1  # errors are not kept


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "no prompt"),
        ([FRANCE, None], {}, "is a text"),
        (FRANCE, {"models": []}, "no model"),
        (FRANCE, {"temprature": 1}, "temprature"),
        (FRANCE, {"temperature": []}, "no values"),
        (FRANCE, {"temperature": ["hot"]}, "is a number"),
        (FRANCE, {"schema": {"n": int}}, "no setting"),
        (FRANCE, {"samples": 0}, "samples"),
        (FRANCE, {"samples": 2}, "the same"),
    ],
)
def test_what_cannot_be_asked_is_refused(prompts: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        compare(prompts, **options)


def test_without_any_of_the_models_nothing_is_asked() -> None:
    with pytest.raises(ModelNotFound, match="nobody/has-this"):
        compare(models=["nobody/has-this", "nor/this"])


def test_an_interrupt_keeps_what_was_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [f"Say {number}." for number in range(12)]
    add = run.Rows.add

    def stop(rows: run.Rows, key: bytes, value: Any) -> None:
        add(rows, key, value)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run.Rows, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(prompts, max_tokens=4)
    monkeypatch.undo()
    assert "compare: saved 1 of 12; run the cell again" in capsys.readouterr().out
    assert isinstance(lmnb.last_partial, pd.DataFrame)
    assert lmnb.last_partial["text"].notna().sum() == 1
    found = compare(prompts, max_tokens=4, progress=True)
    assert found.attrs["lmnb"]["cached"] == 1
    assert found["text"].notna().all()
    assert "compare: 12 ok, 1 cached" in capsys.readouterr().out


@pytest.fixture
def found() -> pd.DataFrame:
    """A table as `compare` makes it."""
    rows = [
        (prompt, model, heat, sample, f"{prompt}{heat}", 10.0 * heat + sample)
        for prompt in ("a", "b")
        for model in ("x", "y")
        for heat in (0.0, 1.0)
        for sample in (0, 1)
    ]
    names = ["prompt", "model", "temperature", "sample", "text", "tokens_per_second"]
    table = pd.DataFrame(rows, columns=names)
    table.loc[0, ["text", "tokens_per_second"]] = None
    return table


@pytest.fixture
def pictures() -> Iterator[None]:
    from matplotlib import pyplot as plt

    before = mpl.get_backend()
    mpl.use("agg")
    yield
    plt.close("all")
    mpl.use(before)


@pytest.mark.usefixtures("pictures")
def test_numbers_are_drawn_as_lines(found: pd.DataFrame) -> None:
    ax = lmnb.plot_comparison(found)
    assert isinstance(ax, mpl.axes.Axes)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("temperature", "tokens per second")
    assert [line.get_label() for line in ax.get_lines()] == ["x", "y"]
    assert [np.asarray(line.get_ydata()).tolist() for line in ax.get_lines()] == [
        [2 / 3, 10.5],
        [0.5, 10.5],
    ]


@pytest.mark.usefixtures("pictures")
def test_others_are_drawn_as_bars_and_texts_are_scored(found: pd.DataFrame) -> None:
    def says_a(text: str) -> bool:
        return "a" in text

    ax = lmnb.plot_comparison(found, says_a, x="prompt", by="model")
    assert ax.get_ylabel() == "says a"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    assert [patch.get_extents().height > 0 for patch in ax.patches] == [True, False, True, False]
    same = lmnb.plot_comparison(found[found["temperature"] == 0], ax=ax)
    assert same is ax


@pytest.mark.usefixtures("pictures")
def test_what_cannot_be_drawn_is_refused(found: pd.DataFrame) -> None:
    wrong: list[dict[str, Any]] = [{"y": "text"}, {"y": "no"}, {"x": "no"}, {"by": "no"}]
    for options in wrong:
        with pytest.raises(InvalidRequest):
            lmnb.plot_comparison(found, **options)
    with pytest.raises(InvalidRequest, match="No row"):
        lmnb.plot_comparison(found.iloc[:1])

"""`df.lm.map` and its kin: the whole contract, against a real server.

The model is a made one that answers by markers in the question, so that a test knows what it says.
"""

from __future__ import annotations

import enum
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic
import pytest
from made_models.scripted import MARKERS, Answer, scripted
from server_home import CHAT, ServerHome, wait_for

import lmnb
import lmnb.frame
from lmnb.client import Client
from lmnb.errors import InvalidRequest, LmnbError, ModelNotFound
from lmnb.frame import run
from lmnb.frame.mapping import RowFailed

YES, NO, LONG, ODD = MARKERS[:4]
MODEL = "tests/tables"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
ANSWERS = [
    Answer("Fine."),
    Answer("yes indeed", YES),
    Answer("no", NO),
    Answer("and so on " * 60, LONG),
]


@pytest.fixture(scope="module")
def tables(server: ServerHome) -> Client:
    """The shared server, with a model that answers by markers."""
    path = server.path / "models" / "tests" / "tables" / "tables.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True)
        scripted(path, ANSWERS, template=TEMPLATE)
    return server.attach()


@pytest.fixture(autouse=True)
def empty_cache(home: Path) -> Iterator[None]:
    yield
    for path in (home / "cache").glob("tables.db*"):
        path.unlink()


def ask(frame: pd.DataFrame, template: str = "{text}", **options: Any) -> pd.DataFrame:
    found: pd.DataFrame = frame.lm.map(template, model=MODEL, **options)
    return found


def calls(client: Client) -> int:
    """Requests that models of the server have got so far."""
    text = client.http.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("lmnb_requests_total")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if "chat/completions" in line)


INDEXES = [
    pd.Index(["b", "a", "b"]),
    pd.MultiIndex.from_tuples([("x", 2), ("x", 1), ("x", 2)], names=["k", "n"]),
    pd.DatetimeIndex(["2026-01-02", "2026-01-01", "2026-01-03"], name="day"),
    pd.Index([5, 3, 9], dtype="int32"),
]


@pytest.mark.parametrize("index", INDEXES, ids=["labels", "levels", "days", "numbers"])
def test_the_index_is_kept_and_the_table_is_not_changed(tables: Client, index: Any) -> None:
    frame = pd.DataFrame({"text": [YES, "?", NO], "n": [1, 2, 3]}, index=index)
    frame.columns.name = "field"
    before = frame.copy(deep=True)
    found = ask(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_index_equal(found.index, index)
    pd.testing.assert_frame_equal(found[["text", "n"]], before)
    assert found["out"].tolist() == ["yes indeed", "Fine.", "no"]
    assert found["out_error"].isna().all()
    assert list(found.columns) == ["text", "n", "out", "out_error"]
    assert found.columns.name == "field"


def test_an_empty_table_gets_its_columns(tables: Client) -> None:
    found = ask(pd.DataFrame({"text": pd.Series([], dtype="string")}), schema={"n": int})
    assert found.dtypes.astype(str).to_dict() == {
        "text": "string",
        "n": "Int64",
        "out_error": "string",
    }


def test_nulls_pass_through_without_a_call(tables: Client) -> None:
    nulls = [None, float("nan"), pd.NA, pd.NaT, ""]
    frame = pd.DataFrame({"text": pd.Series([*nulls, [None], "a"], dtype=object), "k": 1})
    before = calls(tables)
    found = ask(frame, "{k} {text}")
    assert calls(tables) == before + 2
    assert found["out"].isna().tolist() == [True] * 5 + [False] * 2
    assert found["out_error"].tolist()[:5] == ["null input"] * 5
    assert found.attrs["lmnb"] == {
        "ok": 2, "error": 0, "null": 5, "cached": 0, "tokens": found.attrs["lmnb"]["tokens"], "model": MODEL,
    }  # fmt: skip


def test_equal_questions_are_asked_once_and_a_second_run_asks_nothing(tables: Client) -> None:
    frame = pd.DataFrame({"text": ["a", "b"] * 20})
    before = calls(tables)
    first = ask(frame)
    assert calls(tables) == before + 2
    tables.unload(all=True)
    again = ask(frame)
    assert calls(tables) == before + 2
    assert tables.ps() == []  # not even the model was loaded
    pd.testing.assert_frame_equal(first, again)
    assert again.attrs["lmnb"]["cached"] == 40
    assert ask(frame, cache=False).attrs["lmnb"]["cached"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"template": "{text}!"},
        {"system": "Be brief."},
        {"max_tokens": 50},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"retries": 0},
        {"schema": {"holds": bool}},
        {"examples": [({"text": "x"}, "y")]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_answer_is_asked_again(tables: Client, change: dict[str, Any]) -> None:
    frame = pd.DataFrame({"text": ["a"]})
    assert ask(frame).attrs["lmnb"]["cached"] == 0
    assert ask(frame, **change).attrs["lmnb"]["cached"] == 0
    assert ask(frame).attrs["lmnb"]["cached"] == 1


def test_an_instruction_that_all_rows_share_is_read_once(tables: Client) -> None:
    system = "Answer as briefly as you can. " * 20  # a token a byte
    ask(pd.DataFrame({"text": [f"row {n}" for n in range(24)]}), system=system)
    records = [one for one in tables.requests(24) if one["model"] == MODEL]
    read = [one["prompt_tokens"] - one["cached_tokens"] for one in records]
    assert len(read) == 24
    assert len([one for one in read if one > len(system)]) == 1
    # Also of rows that came while it was being read.
    assert sum(read) < len(system) + 24 * 100


def test_rows_have_seeds_of_their_own_above_temperature_0(tables: Client) -> None:
    frame = pd.DataFrame({"text": ["a"] * 3})
    before = calls(tables)
    ask(frame, temperature=1.0, seed=7)
    assert calls(tables) == before + 3
    assert ask(frame, temperature=1.0, seed=7).attrs["lmnb"]["cached"] == 3
    assert ask(frame, temperature=1.0, seed=8).attrs["lmnb"]["cached"] == 2  # seeds 8 and 9


def test_one_bad_row_is_one_error_row(tables: Client) -> None:
    frame = pd.DataFrame({"text": ["a", "x" * 9000, "b" + LONG, "c"]})
    found = ask(frame, max_tokens=8)
    assert found["out"].isna().tolist() == [False, True, True, False]
    assert "context" in found["out_error"][1]
    assert found["out_error"][2] == "length: output cut at 32 tokens"
    assert found.attrs["lmnb"]["error"] == 2
    before = calls(tables)
    assert ask(frame, max_tokens=8).attrs["lmnb"]["cached"] == 2  # errors are not kept
    assert calls(tables) > before
    with pytest.raises(RowFailed, match="Row 1 "):
        ask(frame.iloc[:2], on_error="raise")


def test_what_is_no_character_costs_no_row(tables: Client) -> None:
    found = ask(pd.DataFrame({"text": ["half \ud83d a pair", "b"]}))
    assert found["out"].tolist() == ["Fine.", "Fine."]


def test_an_answer_that_was_cut_is_asked_for_once_more_with_room(tables: Client) -> None:
    found = ask(pd.DataFrame({"text": [YES]}), max_tokens=2)
    assert found["out"].tolist() == ["yes indeed"]
    none = ask(pd.DataFrame({"text": [YES]}), max_tokens=2, retries=0)
    assert none["out_error"].tolist() == ["length: output cut at 2 tokens"]


def test_a_row_that_takes_too_long_is_an_error_row(tables: Client) -> None:
    found = ask(pd.DataFrame({"text": ["a" + LONG]}), timeout=0.0001)
    assert found["out_error"].tolist() == ["timeout"]


def test_what_all_rows_would_fail_for_stops_the_run(tables: Client) -> None:
    frame = pd.DataFrame({"text": ["a", "b"]})
    with pytest.raises(ModelNotFound):
        frame.lm.map("{text}", model="nobody/has-this")
    with pytest.raises(LmnbError, match="temperature"):
        ask(frame, temperature=-1)
    with pytest.raises(LmnbError, match="not"):
        ask(frame, schema={"type": "object", "properties": {"a": {"not": {}}}})


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Review(pydantic.BaseModel):
    mood: Mood
    stars: int
    share: float | None
    again: bool
    city: str
    kind: Literal["long", "short"]
    tags: list[Literal["a"]] = pydantic.Field(max_length=1)


def test_structured_output_becomes_typed_columns(server: ServerHome) -> None:
    frame = pd.DataFrame({"text": ["I loved it, five stars!", None]}, index=[7, 7])
    found = frame.lm.extract("text", Review, model=CHAT, max_tokens=300)
    assert found.loc[:, "mood":].dtypes.astype(str).to_dict() == {
        "mood": "category", "stars": "Int64", "share": "Float64", "again": "boolean",
        "city": "string", "kind": "category", "tags": "object", "out_error": "string",
    }  # fmt: skip
    assert found["mood"].cat.categories.tolist() == ["good", "bad"]
    assert found["out_error"].isna().tolist() == [True, False]
    assert isinstance(found["tags"].iloc[0], list)
    assert found.iloc[1, 1:-1].isna().all()
    again = frame.lm.extract("text", Review, model=CHAT, max_tokens=300)
    assert again.attrs["lmnb"]["cached"] == 1
    pd.testing.assert_frame_equal(found, again)


@pytest.mark.parametrize(
    ("schema", "dtypes"),
    [
        ({"n": int, "ok": ["y", "n"]}, {"n": "Int64", "ok": "category"}),
        (
            {
                "type": "object",
                "properties": {"n": {"type": ["integer", "null"]}, "ok": {"enum": ["y", "n"]}},
                "required": ["n", "ok"],
                "additionalProperties": False,
            },
            {"n": "Int64", "ok": "category"},
        ),
    ],
    ids=["types", "json"],
)
def test_schemas_are_given_in_every_form(server: ServerHome, schema: Any, dtypes: Any) -> None:
    found = pd.DataFrame({"text": ["x"]}).lm.map("{text}", schema, model=CHAT, max_tokens=40)
    assert found.dtypes.astype(str)[list(dtypes)].to_dict() == dtypes
    assert found["ok"].iloc[0] in {"y", "n"}


@pytest.mark.parametrize(
    "schema", [{}, {"a": []}, {"a": ["x", "x"]}, {"a": [1, 2]}, int, {"a": object()}]
)
def test_what_is_no_schema_is_refused(server: ServerHome, schema: Any) -> None:
    with pytest.raises(InvalidRequest):
        pd.DataFrame({"text": ["x"]}).lm.map("{text}", schema)


def test_classify_and_filter(server: ServerHome) -> None:
    index = pd.Index(["a", "a", "b"])
    frame = pd.DataFrame({"text": ["Paris is nice", "Rome {too}", None]}, index=index)
    found = frame.lm.classify("text", ["city", "food {x}"], model=CHAT)
    assert found["label"].cat.categories.tolist() == ["city", "food {x}"]
    assert found["label"].isna().tolist() == [False, False, True]
    column = frame["text"].lm.classify(["city", "food {x}"], model=CHAT)
    pd.testing.assert_series_equal(column, found["label"].rename("text"))
    kept = frame.lm.filter("{text} is about a city.", model=CHAT)
    assert kept.attrs["lmnb"]["null"] == 1
    assert set(kept["text"]) <= set(frame["text"].dropna())
    pd.testing.assert_frame_equal(kept, frame[frame["text"].isin(kept["text"])])
    with pytest.raises(InvalidRequest, match="list of texts"):
        frame.lm.classify("text", "city")


def test_a_column_is_asked_about_as_text(tables: Client) -> None:
    series = pd.Series([YES, None, "b" + LONG], index=[3, 3, 1], name="word")
    found = series.lm.map("Is it {text}?", model=MODEL, max_tokens=8)
    assert found.name == "word"
    pd.testing.assert_index_equal(found.index, series.index)
    assert found.tolist()[0] == "yes indeed"
    assert found.isna().tolist() == [False, True, True]
    assert found.attrs["lmnb"]["errors"] == {2: "length: output cut at 32 tokens"}


def test_columns_are_not_written_over(tables: Client) -> None:
    frame = pd.DataFrame({"text": [YES], "out": [1], "n": [2]})
    before = calls(tables)
    with pytest.raises(InvalidRequest, match="'out' already"):
        ask(frame)
    assert calls(tables) == before
    assert ask(frame, into="more")["more"].tolist() == ["yes indeed"]
    replaced = ask(frame, overwrite=True)
    assert list(replaced.columns) == ["text", "n", "out", "out_error"]
    assert replaced["out"].tolist() == ["yes indeed"]


@pytest.mark.parametrize(
    ("template", "message"),
    [("{nobody}", "no such column"), ("{twice}", "several columns"), ("a {", "without"), ("{}", "without"),
     ("{text.x}", "no such column"), ("{text:>9}", "no such column")],
)  # fmt: skip
def test_templates_that_cannot_be_filled_are_refused(
    tables: Client, template: str, message: str
) -> None:
    frame = pd.DataFrame([["a", 1, 2]], columns=["text", "twice", "twice"])
    before = calls(tables)
    with pytest.raises(InvalidRequest, match=message):
        frame.lm.map(template, model=MODEL)
    assert calls(tables) == before


def test_templates_are_filled_with_values_as_they_are(tables: Client) -> None:
    frame = pd.DataFrame({"a b": ["{x} {{", None], 'q"': [1.5, 2]})
    found = frame.lm.map('{{{a b}}} is {q"}', dry_run=True)
    assert found["out_prompt"].tolist() == ["{{x} {{} is 1.5", pd.NA]


@pytest.mark.parametrize(
    "options",
    [
        {"temprature": 1},
        {"on_error": "skip"},
        {"max_tokens": 0},
        {"timeout": 0},
        {"stream": True},
        {"temperature": "hot"},
    ],
)
def test_wrong_options_are_refused(tables: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ask(pd.DataFrame({"text": ["a"]}), **options)


def test_progress_ends_in_a_line(tables: Client, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"text": ["a", "a", None, "b" + LONG]})
    ask(frame, max_tokens=8, progress=True)
    last = capsys.readouterr().out.strip().splitlines()[-1].rpartition("\r")[2]
    assert last.startswith("map: 2 ok, 1 error, 1 null, ")
    assert "rows/s" in last
    assert "tok/s" in last
    ask(frame, max_tokens=8)
    assert capsys.readouterr().out == ""  # nobody looks on


def test_an_interrupt_keeps_what_was_answered(
    tables: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"text": [f"{n}" for n in range(60)]}, index=range(60, 0, -1))
    add, added = run.Rows.add, 0

    def stop_at_5(rows: run.Rows, key: bytes, value: Any) -> None:
        nonlocal added
        add(rows, key, value)
        added += 1
        if added == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run.Rows, "add", stop_at_5)
    with pytest.raises(KeyboardInterrupt):
        ask(frame)
    monkeypatch.undo()
    assert "saved 5 of 60; run the cell again" in capsys.readouterr().out
    wait_for(lambda: all(row["active"] == 0 for row in tables.ps()), "the requests to end")
    partial = lmnb.last_partial
    assert isinstance(partial, pd.DataFrame)
    pd.testing.assert_index_equal(partial.index, frame.index)
    assert partial["out"].notna().sum() == 5
    found = ask(frame)
    assert found.attrs["lmnb"]["cached"] == 5
    assert found["out"].tolist() == ["Fine."] * 60


def test_a_kill_in_mid_run_loses_nothing_that_was_answered(tables: Client, home: Path) -> None:
    code = f"""
import pandas as pd, lmnb.frame
frame = pd.DataFrame({{"text": [f"{{n}} {LONG}" for n in range(40)]}})
frame.lm.map("{{text}}", model={MODEL!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code])

    def kept() -> int:
        try:
            with sqlite3.connect(home / "cache" / "tables.db") as database:
                return int(database.execute("SELECT count(*) FROM kept").fetchone()[0])
        except sqlite3.Error:
            return 0

    wait_for(lambda: kept() >= 3, "some answers")
    child.kill()
    child.wait()
    there = kept()
    assert 3 <= there < 40
    found = ask(pd.DataFrame({"text": [f"{n} {LONG}" for n in range(40)]}))
    assert found.attrs["lmnb"]["cached"] == there
    assert found.attrs["lmnb"]["ok"] == 40


def test_a_server_that_dies_stops_the_run_and_keeps_the_rest(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fresh_home.path / "models" / "tests" / "tables" / "tables.gguf"
    path.parent.mkdir(parents=True)
    scripted(path, ANSWERS, template=TEMPLATE)
    add = run.Rows.add

    def kill(rows: run.Rows, key: bytes, value: Any) -> None:
        add(rows, key, value)
        fresh_home.kill()
        monkeypatch.undo()

    monkeypatch.setattr(run.Rows, "add", kill)
    monkeypatch.setenv("LMNB_HOME", str(fresh_home.path))
    frame = pd.DataFrame({"text": [f"{n}" for n in range(30)]})
    with pytest.raises(LmnbError, match=r"broke|ended"):
        ask(frame)
    monkeypatch.setenv("LMNB_HOME", str(fresh_home.path))
    assert ask(frame).attrs["lmnb"]["cached"] >= 1


def test_a_damaged_cache_is_told(tables: Client, home: Path) -> None:
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache" / "tables.db").write_bytes(b"no database" * 100)
    with pytest.raises(LmnbError, match="cache"):
        ask(pd.DataFrame({"text": ["a"]}))
    assert ask(pd.DataFrame({"text": ["a"]}), cache=False)["out"].tolist() == ["Fine."]


def test_the_accessor_has_no_state(tables: Client) -> None:
    frame = pd.DataFrame({"text": ["a"]})
    found = frame.head(1).copy()
    found["text"] = YES
    assert ask(found)["out"].tolist() == ["yes indeed"]
    assert ask(found.rename(columns={"text": "t"}), "{t}")["out"].tolist() == ["yes indeed"]

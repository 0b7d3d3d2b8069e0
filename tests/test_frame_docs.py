"""`lmnb.read_docs`: files as tables of text; what cannot be read is a row with the reason."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from pdfs import pdf
from server_home import ServerHome

import lmnb
from lmnb.errors import InvalidRequest

HTML = """<html><head><title>Two  cats</title><style>p {}</style></head><body>
<h1>Cats</h1><p>One <b>bi</b>g
cat.</p><p>Two<br>cats</p><script>let x</script><!-- hidden -->
<table><tr><td>a</td><td>b</td></tr></table><pre>x
  y</pre></body>"""
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 4,
    "metadata": {},
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "words"]},
        {
            "cell_type": "code",
            "metadata": {},
            "source": "1 + 1",
            "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "unseen"}],
        },
    ],
}


def one(path: Path, content: bytes | str) -> pd.DataFrame:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return lmnb.read_docs(path)


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("docs/b.md", "docs/a/c.txt", "docs/.git/d.txt", "docs/.e.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"Grüße from {name}")
    Path("docs/z.bin").write_bytes(b"\0\1")
    os.utime("docs/b.md", (1, 1))
    found = lmnb.read_docs("docs")
    assert list(found.columns) == ["doc_id", "path", "page", "text", "mtime", "sha256", "error"]
    assert found["path"].tolist() == ["docs/b.md", "docs/z.bin", "docs/a/c.txt"]
    assert found.index.tolist() == found["doc_id"].tolist() == found["path"].tolist()
    assert found.loc["docs/b.md", "text"] == "Grüße from docs/b.md"
    assert found.loc["docs/b.md", "mtime"] == pd.Timestamp(1, unit="s", tz="UTC")
    assert (
        found.loc["docs/b.md", "sha256"]
        == hashlib.sha256("Grüße from docs/b.md".encode()).hexdigest()
    )
    assert found["page"].isna().all()
    assert found.loc["docs/z.bin", "error"] == "it is no text"
    assert found["text"].isna().tolist() == [False, True, False]
    some = lmnb.read_docs(["docs/**/*.txt", "docs/b.md", Path("docs/b.md")])
    assert some["path"].tolist() == ["docs/a/c.txt", "docs/b.md"]


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a")
    lmnb.read_docs(tmp_path, progress=True)
    assert "read: 1 ok" in capsys.readouterr().out


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no files at"):
        lmnb.read_docs(str(tmp_path / "*.txt"))
    with pytest.raises(InvalidRequest, match="not 3"):
        lmnb.read_docs([3])  # type: ignore[list-item]
    found = lmnb.read_docs([tmp_path / "no.txt"])
    assert found["error"].tolist() == ["it cannot be read: No such file or directory"]
    assert found["sha256"].isna().all()
    os.mkfifo(tmp_path / "pipe")
    assert lmnb.read_docs(tmp_path)["error"].tolist() == ["it is no file"]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "\ufeffone\r\ntwo".encode(), "one\r\ntwo"),
        ("a.txt", "zwölf 👍".encode("utf-16"), "zwölf 👍"),
        ("a.txt", "", ""),
        ("a.py", "x = 1\n", "x = 1\n"),
        ("a.html", HTML, "Two cats\n\nCats\n\nOne big cat.\n\nTwo\ncats\n\na b\n\nx\ny"),
        ("a.htm", '<meta charset="latin-1"><p>caf\xe9'.encode("latin-1"), "café"),
        ("a.htm", '<meta charset="odd"><p>café', "café"),
        ("a.ipynb", json.dumps(NOTEBOOK), "# Title\nwords\n\n```\n1 + 1\n```"),
    ],
)
def test_text(tmp_path: Path, name: str, content: bytes | str, text: str) -> None:
    found = one(tmp_path / name, content)
    assert found["error"].isna().all()
    assert found["text"].tolist() == [text]


@pytest.mark.parametrize(
    ("name", "content", "pages"),
    [
        ("a.csv", "n,word\n1,one\n2,\n", ["n: 1\nword: one", "n: 2"]),
        ("a.tsv", "n\tword\n01\tone, two\n", ["n: 01\nword: one, two"]),
        ("a.jsonl", '{"n": [1, "ä"], "x": null}\n\n"text"\n', ['n: [1, "ä"]', "text"]),
    ],
)
def test_records(tmp_path: Path, name: str, content: str, pages: list[str]) -> None:
    found = one(tmp_path / name, content)
    assert found["text"].tolist() == pages
    assert found["page"].tolist() == list(range(1, len(pages) + 1))
    assert found.index[0] == f"{tmp_path / name}#record=1"
    whole = lmnb.read_docs(tmp_path / name, pages=False)
    assert whole["text"].tolist() == ["\n\n".join(pages)]
    assert whole["page"].isna().all()


def test_parquet_where_pyarrow_is(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pandas reads parquet with pyarrow")
    pd.DataFrame({"n": [1, 2], "x": ["a", None]}).to_parquet(tmp_path / "a.parquet")
    assert lmnb.read_docs(tmp_path)["text"].tolist() == ["n: 1\nx: a", "n: 2"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", b"caf\xe9", r"not in UTF-8 \(byte 3 is 0xe9\)"),
        ("a.txt", b"\xff\xfea", "not in UTF-8"),
        ("a.ipynb", b"{}", "damaged"),
        ("a.ipynb", b"no", "damaged"),
        ("a.csv", b'a,b\n1,2,3\n4,5,6,"7', "no table"),
        ("a.jsonl", b"{}\n{", "line 2 is no JSON"),
        ("a.docx", b"PK", "damaged"),
        ("a.xlsx", b"", "damaged"),
        ("a.doc", b"\xd0\xcf", "save it as .docx"),
        ("a.parquet", b"PAR1", "damaged|pyarrow"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    found = one(tmp_path / name, content)
    assert found["text"].isna().all()
    assert found["error"].str.contains(why).all(), found["error"].tolist()
    assert found["sha256"].notna().all()


def test_pdfs_have_a_row_a_page(server: ServerHome, tmp_path: Path) -> None:
    found = one(tmp_path / "a.pdf", pdf("First page", "", "Third"))
    assert found["text"].tolist() == ["First page", "", "Third"]
    assert found["page"].tolist() == [1, 2, 3]
    assert found.index.tolist() == [f"{tmp_path / 'a.pdf'}#page={n}" for n in (1, 2, 3)]
    whole = lmnb.read_docs(tmp_path / "a.pdf", pages=False)
    assert whole["text"].tolist() == ["First page\n\n\n\nThird"]
    (tmp_path / "b.pdf").write_bytes(pdf("x", password=True))
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "d.pdf").write_bytes(pdf("", ""))
    found = lmnb.read_docs(str(tmp_path / "[bcd].pdf"))
    errors = found["error"].tolist()
    assert "password" in errors[0]
    assert "damaged" in errors[1]
    assert errors[2] == "it has no text: its pages are pictures"


def test_office_files(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx", reason="the extra lmnb[docs]")
    pptx = pytest.importorskip("pptx", reason="the extra lmnb[docs]")
    openpyxl = pytest.importorskip("openpyxl", reason="the extra lmnb[docs]")
    document = docx.Document()
    document.add_heading("Cats", 1)
    document.add_table(1, 2).rows[0].cells[1].text = "cell"
    document.add_paragraph("The end.")
    document.save(str(tmp_path / "a.docx"))
    show = pptx.Presentation()
    for words in ("one", "two"):
        slide = show.slides.add_slide(show.slide_layouts[5])
        slide.shapes.title.text = words
    table = slide.shapes.add_table(1, 2, 0, 0, 99, 99).table
    table.cell(0, 0).text = "in a table"
    slide.notes_slide.notes_text_frame.text = "a note"
    show.save(str(tmp_path / "b.pptx"))
    book = openpyxl.Workbook()
    book.active.title = "Numbers"
    book.active.append(["n", "word"])
    book.active.append([])
    book.active.append([1, None])
    book.save(tmp_path / "c.xlsx")
    found = lmnb.read_docs(tmp_path)
    assert found["error"].isna().all()
    assert found["text"].tolist() == [
        "Cats\n\n | cell\n\nThe end.",
        "one",
        "two\n\nin a table | \n\na note",
        "Numbers\n\nn | word\n1 | ",
    ]
    assert [label.rpartition("#")[2] for label in found.index[1:]] == [
        *("slide=1", "slide=2", "sheet=1")
    ]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docx", None)
    found = one(tmp_path / "a.docx", b"PK")
    assert "pip install 'lmnb[docs]'" in found["error"].iloc[0]


def test_pages_become_chunks(server: ServerHome, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("First page. Of two.", "Second page."))
    docs = lmnb.read_docs(tmp_path)
    found = docs.lm.chunk(size=4, keep=["path", "page"])
    assert found["doc_id"].tolist() == [docs.index[0]] * 2 + [docs.index[1]]
    assert found["page"].tolist() == [1, 1, 2]
    assert found["text"].tolist() == ["First page.", "Of two.", "Second page."]

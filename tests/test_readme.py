"""What the documentation prints: examples run as they stand, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_home import wait_for

from lmnb.client import Client

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "lmnb" / room / "README.md" for room in ("server", "frame"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.parent.name}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(
            r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    )
]


@pytest.fixture
def address(client: Client) -> Iterator[str]:
    yield client.serve(port=0)["url"]
    client.stop_serving()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example(
    example: str,
    address: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = example.replace("http://127.0.0.1:1234", address).replace("range(1000)", "range(2)")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "example", "exec"), names)
    if batch := names.get("batch"):
        batches = names["client"].batches
        wait_for(lambda: batches.retrieve(batch.id).status == "completed", "the batch to end")
    elif "print(" in code:
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES, ids=[page.parent.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}

"""The table of families and what they support; `python tests/round_trips/table.py` writes it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_models.scripted import MARKERS

from lmnb.chat.formats.format import (
    Calls,
    DictArguments,
    HarmonyCall,
    JsonCall,
    PythonCall,
    TaggedArguments,
    WrittenCall,
)
from round_trips.cases import cases
from round_trips.family import Family
from round_trips.templates import PUBLISHED, SHARED

README = Path(__file__).parents[2] / "lmnb" / "chat" / "formats" / "README.md"
_FEATURES = tuple(dict.fromkeys(case.feature for case in cases(())))
_BEGIN, _END = "<!-- families -->\n", "<!-- /families -->\n"


def write() -> str:
    """The table, as Markdown."""
    lines = [
        _row(["model's template", "calls", *_FEATURES]),
        _row(["---", "---", *([":-:"] * len(_FEATURES))]),
    ]
    for path in PUBLISHED:
        family = Family(path.read_text())
        lines.append(_row([path.stem, syntax_of(family), *support(family)]))
    return "\n".join(lines) + "\n"


def read(page: Path) -> str:
    """The table that stands in the page."""
    return page.read_text().partition(_BEGIN)[2].partition(_END)[0]


def support(family: Family) -> list[str]:
    """Of each feature, whether the family has it: yes, in part, or –."""
    given = Counter(case.feature for case in cases(family.own_markers))
    found = Counter(written.case.feature for written in family.supported(MARKERS))
    return [
        "yes" if found[feature] == given[feature] else "in part" if found[feature] else "–"
        for feature in _FEATURES
    ]


def syntax_of(family: Family) -> str:
    """How the family writes calls."""
    if family.format.calls is None:
        return "lmnb's own"
    kind = _kind(family.format.calls)
    return f"{kind} ({family.format.family})" if family.format.family else kind


def _kind(calls: Calls) -> str:
    match calls.call:
        case JsonCall():
            return "JSON"
        case PythonCall():
            return "Python"
        case HarmonyCall():
            return "harmony"
        case WrittenCall(arguments=TaggedArguments()):
            return "tags"
        case WrittenCall(arguments=DictArguments()):
            return "dict"
        case WrittenCall():
            return "name, JSON"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    if not PUBLISHED:
        sys.exit(f"There are no chat templates in {SHARED}.")
    text = README.read_text()
    before, rest = text.split(_BEGIN)
    README.write_text(before + _BEGIN + write() + _END + rest.split(_END)[1])

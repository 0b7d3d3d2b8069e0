"""A small table, as HTML for notebooks and as text for terminals, diffs and screen readers."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lmnb.notebook.output import Bundle


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Bundle:
    """Rows under headers. None is an empty cell."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    return {"text/html": _html(headers, cells), "text/plain": _plain(headers, cells)}


def joined(*bundles: Bundle) -> Bundle:
    """Several bundles below each other as one."""
    return {
        "text/html": "\n".join(
            bundle.get("text/html") or paragraph(bundle["text/plain"])["text/html"]
            for bundle in bundles
        ),
        "text/plain": "\n".join(bundle["text/plain"] for bundle in bundles),
    }


def paragraph(text: str, code: str | None = None) -> Bundle:
    """A line of text, and maybe a command to copy below it."""
    block = f"<pre><code>{html.escape(code)}</code></pre>" if code else ""
    lines = html.escape(text).replace("\n", "<br>")
    return {
        "text/html": f"<div>{lines}{block}</div>",
        "text/plain": f"{text}\n    {code}" if code else text,
    }


def link(text: str, url: str) -> Bundle:
    """An address to open in another tab."""
    href = html.escape(url)
    return {
        "text/html": f'<a href="{href}" target="_blank" rel="noopener noreferrer">'
        f"{html.escape(text)}</a>",
        "text/plain": f"{text}: {url}",
    }


def _html(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(tag: str, values: Sequence[str]) -> str:
        # Notebooks align to the right, which suits numbers only, and heed no `align`.
        style = 'style="text-align: left"'
        cells = (f"<{tag} {style}>{html.escape(value)}</{tag}>" for value in values)
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(row("td", values) for values in rows)
    return (
        '<table style="margin-top: 0.5em">'
        f"<thead>{row('th', headers)}</thead><tbody>{body}</tbody></table>"
    )


def _plain(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(headers), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

"""`%lm search`: models to fetch, and the variants of one."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from lmnb.notebook.arguments import integer
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.output import Bundle, show
from lmnb.notebook.progress import transient
from lmnb.notebook.table import joined, paragraph, table
from lmnb.notebook.units import size

if TYPE_CHECKING:
    from lmnb.client import Client


def add_search(commands: Any) -> None:
    """Declare `%lm search`."""
    parser = commands.add_parser(
        "search",
        help="look for models to fetch",
        description="Look for models on the Hugging Face Hub by words of their names. Alone: the "
        "built-in ones.",
    )
    add = parser.add_argument
    add("query", nargs="*", metavar="QUERY", help="words of a name")
    add(
        "--variants",
        action="store_true",
        help="QUERY is one repository: its variants, with sizes and whether they fit",
    )
    add("--limit", type=integer(1, 100), default=30, metavar="N", help="at most so many (30)")
    parser.set_defaults(run=run_search)


def run_search(client: Client, args: Namespace) -> None:
    """Show what there is to fetch."""
    query = " ".join(args.query)
    if args.variants and not query:
        raise UsageMistake("%lm search --variants: say of which repository.")
    with transient(f"Looking for {query or 'the built-in models'}"):
        found: Any = client.variants(query) if args.variants else client.search(query, args.limit)
    show(variants(found) if args.variants else models(found))


def models(rows: list[dict[str, Any]]) -> Bundle:
    """What a search has found."""
    if not rows:
        return paragraph("The Hub has no GGUF models of that name.")
    return table(
        ("Model", "Parameters", "Context", "Downloads", "Updated", "Note"),
        [
            (
                row["model"],
                row["params_string"],
                row["context_length"],
                None if row["downloads"] is None else f"{row['downloads']:,}",
                (row["updated_at"] or "")[:10],
                row["description"] or ("terms to accept" if row["gated"] else None),
            )
            for row in rows
        ],
    )


def variants(found: dict[str, Any]) -> Bundle:
    """What there is to fetch of one model."""
    rows = table(
        ("To get", "Size", "Memory", "Fits", "Here as"),
        [
            (
                row["name"] + (" (default)" if row["is_default"] else ""),
                size(row["size_bytes"]),
                f"about {size(row['needed_bytes'])}",
                row["fit"],
                row["key"],
            )
            for row in found["variants"]
        ],
    )
    lines = [f"{size(found['free_bytes'])} of memory are free now."]
    if found["gated"]:
        lines.append(f"{found['model']} is gated: its authors want their terms accepted.")
    return joined(rows, paragraph("\n".join(lines)))

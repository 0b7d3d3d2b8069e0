"""`lmnb search`: models to fetch, and the variants of one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lmnb.cli import output
from lmnb.errors import InvalidRequest

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the command."""
    search = commands.add_parser("search", help="look for models to download")
    search.add_argument(
        "query",
        nargs="*",
        metavar="QUERY",
        help="words of a name on the Hugging Face Hub (default: the built-in models)",
    )
    search.add_argument(
        "--variants",
        action="store_true",
        help="QUERY is one repository: list its variants, with sizes and whether they fit",
    )
    search.add_argument("--limit", type=int, default=30, metavar="N", help="default: 30")
    search.add_argument("--json", action="store_true", help="print JSON")
    search.set_defaults(run=_search)


def _search(options: Namespace) -> None:
    query = " ".join(options.query)
    if options.variants and not query:
        raise InvalidRequest("Say of which repository.", hint="`lmnb search QUERY` finds them.")
    client = output.connect()
    found: Any = client.variants(query) if options.variants else client.search(query, options.limit)
    if options.json:
        output.print_json(found)
    elif options.variants:
        _print_variants(found)
    else:
        _print_models(found)


def _print_models(models: list[dict[str, Any]]) -> None:
    if not models:
        output.note("The Hub has no GGUF models of that name.")
        return
    output.print_table(
        ("MODEL", "PARAMS", "CONTEXT", "DOWNLOADS", "UPDATED", "NOTE"),
        [
            (
                model["model"],
                model["params_string"] or "?",
                str(model["context_length"] or "?"),
                "" if model["downloads"] is None else f"{model['downloads']:,}",
                (model["updated_at"] or "")[:10],
                model["description"] or ("terms to accept" if model["gated"] else ""),
            )
            for model in models
        ],
    )


def _print_variants(found: dict[str, Any]) -> None:
    output.print_table(
        ("TO GET", "SIZE", "MEMORY", "FITS", "HERE AS"),
        [
            (
                variant["name"] + (" (default)" if variant["is_default"] else ""),
                output.size(variant["size_bytes"]),
                f"about {output.size(variant['needed_bytes'])}",
                variant["fit"],
                variant["key"] or "",
            )
            for variant in found["variants"]
        ],
    )
    output.note(f"{output.size(found['free_bytes'])} of memory are free now.")
    if found["gated"]:
        output.note(f"{found['model']} is gated: its authors want their terms accepted.")

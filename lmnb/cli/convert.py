"""`lmnb convert`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lmnb.cli import output

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the command."""
    convert = commands.add_parser(
        "convert", help="make a GGUF of a BERT-type embedding model in safetensors form"
    )
    convert.add_argument("folder", help="with model.safetensors, config.json and vocab.txt")
    convert.add_argument("--name", help="such as owner/name (default: the folder's)")
    convert.add_argument("--type", default="F16", help="F16 (default), Q8_0 or F32")
    convert.add_argument("--json", action="store_true", help="print JSON")
    convert.set_defaults(run=_convert)


def _convert(options: Namespace) -> None:
    events = output.connect().convert(
        options.folder, name=options.name, file_type=options.type.upper()
    )
    done = output.follow(f"Converting {options.folder}", events)
    if options.json:
        output.print_json({name: done[name] for name in ("key", "path", "size_bytes")})
        return
    print(f"{done['key']} is here: {output.size(done['size_bytes'])}, {done['path']}")

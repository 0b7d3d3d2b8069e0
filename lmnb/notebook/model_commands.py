"""`%lm get`, `ls`, `load` and the others about models: their options, and what they do."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from lmnb.errors import ModelNotFound
from lmnb.notebook.arguments import integer, number
from lmnb.notebook.defaults import model_name
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.models import choose, use
from lmnb.notebook.output import note, show
from lmnb.notebook.progress import Progress
from lmnb.notebook.status import downloads, gpu_hint, ls, pending, placement, ps
from lmnb.notebook.table import joined, paragraph
from lmnb.notebook.units import duration, size
from lmnb.selection import DEFAULT_CHAT_MODEL

if TYPE_CHECKING:
    from lmnb.client import Client


def add_get(commands: Any) -> None:
    """Declare `%lm get`."""
    parser = commands.add_parser("get", help="fetch a model", description="Fetch a model.")
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name, a Hugging Face repository, a URL or a file "
        f"(default: {DEFAULT_CHAT_MODEL}, 98 MB)",
    )
    parser.add_argument("-q", "--quantization", metavar="Q", help="which variant, such as Q4_K_M")
    parser.set_defaults(run=run_get)


def run_get(client: Client, args: Namespace) -> None:
    """Fetch a model, and follow how far it is."""
    name = args.model or DEFAULT_CHAT_MODEL
    progress = Progress(f"Fetching {name}")
    done: dict[str, Any] = {}
    notes: list[str] = []
    with progress.running():
        for event in client.get(args.model, args.quantization):
            if event["type"] == "progress":
                progress.set(*_transfer(event))
            elif event["type"] == "note":
                notes.append(event["text"])
                progress.set(progress.fraction, event["text"])
            elif event["type"] == "done":
                done = event
    text = f"{done['key']} is here: {size(done['size_bytes'])}, {done['path']}"
    progress.finish(paragraph("\n".join([*notes, text])))


def _transfer(event: dict[str, Any]) -> tuple[float | None, str]:
    total, speed, left = event["total"], event.get("bytes_per_second"), event.get("eta_seconds")
    parts = [f"{size(event['done'])} of {size(total)}" if total else size(event["done"])]
    if speed:
        parts.append(f"{size(speed)}/s")
    if left:
        parts.append(f"{duration(left)} left")
    return (event["done"] / total if total else None), " · ".join(parts)


def add_convert(commands: Any) -> None:
    """Declare `%lm convert`."""
    parser = commands.add_parser(
        "convert",
        help="a BERT-type model as GGUF",
        description="Make a GGUF of a BERT-type embedding model in safetensors form.",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="with model.safetensors, config.json, vocab.txt"
    )
    parser.add_argument("--name", metavar="NAME", help="such as owner/name (default: the folder's)")
    parser.add_argument("--type", metavar="T", default="F16", help="F16 (default), Q8_0 or F32")
    parser.set_defaults(run=run_convert)


def run_convert(client: Client, args: Namespace) -> None:
    """Convert a model, and follow how far it is."""
    progress = Progress(f"Converting {args.folder}")
    done: dict[str, Any] = {}
    with progress.running():
        for event in client.convert(args.folder, name=args.name, file_type=args.type.upper()):
            if event["type"] == "progress":
                progress.set(event["progress"])
            done = event
    progress.finish(paragraph(f"{done['key']} is here: {size(done['size_bytes'])}, {done['path']}"))


def add_downloads(commands: Any) -> None:
    """Declare `%lm downloads`."""
    parser = commands.add_parser(
        "downloads",
        help="what is being fetched",
        description="Downloads of all clients; pause, resume or cancel one.",
    )
    choices = ("pause", "resume", "cancel")
    parser.add_argument("action", nargs="?", choices=choices, help="pause, resume or cancel one")
    parser.add_argument("name", nargs="?", metavar="ID", help="its id, or its model")
    parser.set_defaults(run=run_downloads)


def run_downloads(client: Client, args: Namespace) -> None:
    """List downloads, or pause, resume or cancel one."""
    if args.action is None:
        show(downloads(client.downloads()))
        return
    if args.name is None:
        raise UsageMistake(f"%lm downloads: say which one to {args.action}.")
    show(downloads([client.change_download(args.name, args.action)]))


def add_ls(commands: Any) -> None:
    """Declare `%lm ls`."""
    parser = commands.add_parser(
        "ls", help="models on the disk", description="The models on the disk."
    )
    parser.set_defaults(run=run_ls)


def run_ls(client: Client, _: Namespace) -> None:
    """Show the models on the disk."""
    show(ls(client.ls()))


def add_ps(commands: Any) -> None:
    """Declare `%lm ps`."""
    parser = commands.add_parser("ps", help="loaded models", description="The loaded models.")
    parser.set_defaults(run=run_ps)


def run_ps(client: Client, _: Namespace) -> None:
    """Show the loaded models."""
    show(joined(ps(client.ps()), *pending(client.pending())))


def add_load(commands: Any) -> None:
    """Declare `%lm load`."""
    parser = commands.add_parser("load", help="load a model", description="Load a model.")
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=model_name,
        metavar="MODEL",
        help=f"default: {DEFAULT_CHAT_MODEL}",
    )
    add("--context-length", type=integer(1), metavar="N", help="in tokens")
    add("--ttl", type=number(0), metavar="S", help="unload when idle for S seconds (never)")
    add("--identifier", metavar="NAME", help="a name of your own for the loaded model")
    add("--estimate-only", action="store_true", help="say how much memory it takes; load nothing")
    parser.set_defaults(run=run_load)


def run_load(client: Client, args: Namespace) -> None:
    """Load a model, or say how much memory it takes."""
    name = args.model or DEFAULT_CHAT_MODEL
    options = {key: getattr(args, key) for key in ("identifier", "context_length", "ttl")}
    if args.estimate_only:
        found = client.estimate(name, context_length=args.context_length)
        show(
            paragraph(
                f"{name} would take {size(found['total'])} of memory with a context of "
                f"{found['context_length']} tokens; {size(found['free'])} are free."
            )
        )
        return
    progress = Progress(f"Loading {name}")
    row: dict[str, Any] = {}
    with progress.running():
        for event in client.load(name, **options):
            if event["type"] == "progress":
                progress.set(event["progress"])
            else:
                row = event
    how = "already" if row["waited"] is None else f"({duration(row['waited'])})"
    if row["kind"] == "llm":
        use(row["id"])
    text = (
        f"{row['id']} is loaded {how}: {placement(row)}, "
        f"context {row['context_length']} tokens, {size(row['memory'])}"
    )
    lines = [text, *(f"Warning: {warning}" for warning in row["warnings"])]
    progress.finish(joined(paragraph("\n".join(lines)), *gpu_hint(client.status()["device"])))


def add_use(commands: Any) -> None:
    """Declare `%lm use`."""
    parser = commands.add_parser(
        "use",
        help="choose the model that cells ask",
        description="From now on, cells that name no model ask this one, which is loaded if need be.",
    )
    parser.add_argument(
        "model", nargs="?", type=model_name, metavar="MODEL", help="alone: which it is now"
    )
    parser.set_defaults(run=run_use)


def run_use(client: Client, args: Namespace) -> None:
    """Choose the model that cells ask."""
    if args.model is None:
        note(f"Cells ask {choose(client)}.")
        return
    known = {row["id"] for row in client.ps()} | {row["key"] for row in client.ls()}
    # Names may be shortened; whoever looks into the model finds out which is meant.
    name = args.model if args.model in known else client.inspect(args.model)["model"]
    use(name, picked=True)
    note(f"Cells ask {name} from now on.")


def add_unload(commands: Any) -> None:
    """Declare `%lm unload`."""
    parser = commands.add_parser("unload", help="unload a model", description="Unload a model.")
    parser.add_argument(
        "model", nargs="?", type=model_name, metavar="NAME", help="default: the only one"
    )
    parser.add_argument("--all", action="store_true", help="every loaded model")
    parser.add_argument("--wait", action="store_true", help="finish what is being answered first")
    parser.set_defaults(run=run_unload)


def run_unload(client: Client, args: Namespace) -> None:
    """Unload one model, or all."""
    if args.all and args.model:
        raise UsageMistake("%lm unload: give a name or --all, not both.")
    name = args.model
    if not args.all and name is None:
        loaded = [row["id"] for row in client.ps()]
        if len(loaded) != 1:
            few = "No model is loaded." if not loaded else f"Loaded are {', '.join(loaded)}."
            raise ModelNotFound(few, hint="Name one, or say --all." if loaded else None)
        name = loaded[0]
    unloaded = client.unload(name, all=args.all, wait=args.wait)
    note(f"Unloaded: {', '.join(unloaded)}" if unloaded else "No model was loaded.")

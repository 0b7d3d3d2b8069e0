"""`%lm`: one line magic for the models and the server."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lmnb.errors import ModelNotFound
from lmnb.notebook.aliases import add_alias, run_alias
from lmnb.notebook.arguments import Parser, integer, number
from lmnb.notebook.conversations import (
    add_history,
    add_reset,
    add_show,
    add_stop,
    run_history,
    run_reset,
    run_show,
    run_stop,
)
from lmnb.notebook.defaults import model_name
from lmnb.notebook.failures import HelpShown, UsageMistake
from lmnb.notebook.inspecting import add_inspect, run_inspect
from lmnb.notebook.models import choose, use
from lmnb.notebook.output import note, show
from lmnb.notebook.progress import Progress, transient
from lmnb.notebook.requests import requests
from lmnb.notebook.status import (
    downloads,
    endpoints,
    gpu_hint,
    ls,
    mcp,
    pending,
    placement,
    ps,
    settings,
    status,
)
from lmnb.notebook.table import joined, link, paragraph
from lmnb.notebook.units import duration, size
from lmnb.notebook.widgets import NAMES
from lmnb.selection import DEFAULT_CHAT_MODEL

if TYPE_CHECKING:
    from lmnb.client import Client


class LmMagic:
    """Sub-commands, each a method of its name that gets the client and the options."""

    @cached_property
    def parser(self) -> Parser:
        """All commands with their options."""
        parser = Parser(
            prog="%lm", description="Models and server of lmnb. Alone: what there is, and where."
        )
        commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
        for add in _PARSERS:
            add(commands)
        return parser

    def __call__(self, line: str) -> None:
        """Do what the line says."""
        args = self.parser.parse_line(line)
        if args.command == "help":
            raise HelpShown(self._help_for(args.topic))
        if args.command in _LOCAL:
            _LOCAL[args.command](args)
            return
        with transient("Starting the lmnb server"):
            from lmnb.attaching import attach

            client = attach()
        _COMMANDS[args.command or "status"](client, args)

    def help(self) -> str:
        """What `%lm?` shows."""
        return self.parser.format_help()

    def _help_for(self, topic: str | None) -> str:
        if topic is None:
            return self.parser.format_help()
        commands = self.parser.commands()
        if topic not in commands:
            self.parser.error(f"argument command: invalid choice: '{topic}'")
        return commands[topic].format_help()


# --- options ------------------------------------------------------------------


def _get(commands: Any) -> None:
    parser = commands.add_parser("get", help="fetch a model", description="Fetch a model.")
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name, a Hugging Face repository, a URL or a file "
        f"(default: {DEFAULT_CHAT_MODEL}, 98 MB)",
    )
    parser.add_argument("-q", "--quantization", metavar="Q", help="which variant, such as Q4_K_M")


def _downloads(commands: Any) -> None:
    parser = commands.add_parser(
        "downloads",
        help="what is being fetched",
        description="Downloads of all clients; pause, resume or cancel one.",
    )
    choices = ("pause", "resume", "cancel")
    parser.add_argument("action", nargs="?", choices=choices, help="pause, resume or cancel one")
    parser.add_argument("name", nargs="?", metavar="ID", help="its id, or its model")


def _ls(commands: Any) -> None:
    commands.add_parser("ls", help="models on the disk", description="The models on the disk.")


def _ps(commands: Any) -> None:
    commands.add_parser("ps", help="loaded models", description="The loaded models.")


def _load(commands: Any) -> None:
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


def _use(commands: Any) -> None:
    parser = commands.add_parser(
        "use",
        help="choose the model that cells ask",
        description="From now on, cells that name no model ask this one, which is loaded if need be.",
    )
    parser.add_argument(
        "model", nargs="?", type=model_name, metavar="MODEL", help="alone: which it is now"
    )


def _unload(commands: Any) -> None:
    parser = commands.add_parser("unload", help="unload a model", description="Unload a model.")
    parser.add_argument(
        "model", nargs="?", type=model_name, metavar="NAME", help="default: the only one"
    )
    parser.add_argument("--all", action="store_true", help="every loaded model")
    parser.add_argument("--wait", action="store_true", help="finish what is being answered first")


def _serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="let other programs in",
        description="Open a port for OpenAI, Anthropic and LM Studio clients.",
    )
    add = parser.add_argument
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=integer(0, 65535), help="port (1234); 0 takes a free one")
    add("--require-auth", action="store_true", help="ask clients for an API token")
    add("--allow-open", action="store_true", help="listen beyond this machine without tokens")
    add("--stop", action="store_true", help="close the port; models stay loaded")


def _settings(commands: Any) -> None:
    parser = commands.add_parser(
        "settings", help="what the server goes by", description="Show settings, or change one."
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="which one (all)")
    add("value", nargs="?", metavar="VALUE", help="what to set it to, such as 600 or off")
    add("--reset", action="store_true", help="back to its default")


def _launch(commands: Any) -> None:
    parser = commands.add_parser(
        "launch",
        help="how to start a coding agent",
        description="Get a model and the port ready for a coding agent, and show the command that "
        "starts it in a terminal of this machine.",
    )
    add = parser.add_argument
    add("agent", choices=("claude", "codex", "opencode"), help="Claude Code, Codex or opencode")
    add(
        "-m",
        "--model",
        type=model_name,
        help="a loaded or downloaded model (default: the one that is loaded)",
    )
    add("--context-length", type=integer(1), metavar="N", help="tokens to load it with (65536)")
    add("--port", type=integer(0, 65535), help="port to listen on (1234); 0 takes a free one")


def _mcp(commands: Any) -> None:
    parser = commands.add_parser(
        "mcp",
        help="MCP servers and their tools",
        description="The MCP servers of mcp.json, with their tools; or log in to one of them.",
    )
    add = parser.add_argument
    add("action", nargs="?", choices=("login", "logout"), help="to or from a remote server")
    add("name", nargs="?", metavar="NAME", help="which one")
    add(
        "--paste",
        action="store_true",
        help="for a browser on another machine: ask for the address that it ends at",
    )


def _connect(commands: Any) -> None:
    parser = commands.add_parser(
        "connect",
        help="use another server's models",
        description="Use the models of another OpenAI-compatible server, as NAME/model.",
    )
    add = parser.add_argument
    add("url", metavar="URL", help="its address, such as http://gpu.example:8000/v1")
    add("--name", help="what its models' names begin with (its host)")
    add("--key-env", metavar="VARIABLE", help="environment variable with its API key")
    add("--save-key", action="store_true", help="keep the key, in a file that you alone can read")


def _disconnect(commands: Any) -> None:
    parser = commands.add_parser(
        "disconnect", help="forget such a server", description="Forget a connected server."
    )
    parser.add_argument("name", metavar="NAME", help="as %%lm endpoints shows it")


def _endpoints(commands: Any) -> None:
    commands.add_parser(
        "endpoints",
        help="connected servers",
        description="The connected servers, and how they are.",
    )


def _ui(commands: Any) -> None:
    parser = commands.add_parser(
        "ui", help="panels to click", description="All panels as tabs, or one of them alone."
    )
    parser.add_argument("panel", nargs="?", choices=NAMES, metavar="PANEL", help=", ".join(NAMES))


def _log(commands: Any) -> None:
    parser = commands.add_parser(
        "log",
        help="the last requests",
        description="The last requests of all clients, and what became of them.",
    )
    add = parser.add_argument
    add("-n", "--lines", type=integer(1), default=20, metavar="N", help="how many (20)")
    add("--model", metavar="NAME", help="only those of a model; a part of its name will do")
    add("--status", metavar="CODE", help="only such as 404, 5xx, or error for all that failed")
    add("--route", metavar="PATH", help="only those whose route begins so")
    add("--prompts", action="store_true", help="with prompts and answers, as far as recorded")
    add("--server", action="store_true", help="the server's own log instead")


def _help(commands: Any) -> None:
    parser = commands.add_parser("help", help="this, or help about a command")
    parser.add_argument("topic", nargs="?", metavar="COMMAND")


_PARSERS: tuple[Callable[[Any], None], ...] = (
    _get,
    _downloads,
    _ls,
    _ps,
    _load,
    _use,
    add_alias,
    _unload,
    add_inspect,
    add_history,
    add_reset,
    add_show,
    add_stop,
    _serve,
    _launch,
    _connect,
    _disconnect,
    _endpoints,
    _settings,
    _mcp,
    _ui,
    _log,
    _help,
)

# --- commands -----------------------------------------------------------------


def _show_status(client: Client, _: Namespace) -> None:
    show(status(client.status()))


def _show_ls(client: Client, _: Namespace) -> None:
    show(ls(client.ls()))


def _show_ps(client: Client, _: Namespace) -> None:
    show(joined(ps(client.ps()), *pending(client.pending())))


def _show_endpoints(client: Client, _: Namespace) -> None:
    show(endpoints(client.endpoints()))


def _run_connect(client: Client, args: Namespace) -> None:
    row = client.connect(args.url, name=args.name, key_env=args.key_env, save_key=args.save_key)
    models = ", ".join(f"{row['name']}/{model}" for model in row["models"])
    note(f"{row['name']} ({row['url']}) is connected. Its models: {models or 'none'}")


def _run_disconnect(client: Client, args: Namespace) -> None:
    row = client.disconnect(args.name)
    note(f"{row['name']} ({row['url']}) is disconnected.")


def _run_get(client: Client, args: Namespace) -> None:
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


def _run_downloads(client: Client, args: Namespace) -> None:
    if args.action is None:
        show(downloads(client.downloads()))
        return
    if args.name is None:
        raise UsageMistake(f"%lm downloads: say which one to {args.action}.")
    show(downloads([client.change_download(args.name, args.action)]))


def _run_load(client: Client, args: Namespace) -> None:
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


def _run_use(client: Client, args: Namespace) -> None:
    if args.model is None:
        note(f"Cells ask {choose(client)}.")
        return
    known = {row["id"] for row in client.ps()} | {row["key"] for row in client.ls()}
    # Names may be shortened; whoever looks into the model finds out which is meant.
    name = args.model if args.model in known else client.inspect(args.model)["model"]
    use(name, picked=True)
    note(f"Cells ask {name} from now on.")


def _run_unload(client: Client, args: Namespace) -> None:
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


def _run_serve(client: Client, args: Namespace) -> None:
    if args.stop:
        closed = client.stop_serving()
        note("The port is closed; models stay loaded." if closed else "No port was open.")
        return
    info = client.serve(
        host=args.host,
        port=args.port,
        require_auth=args.require_auth or None,
        allow_open=args.allow_open,
    )
    url = info["network_url"] or info["url"]
    lines = [
        f"Listening on {url}" if info["opened"] else f"Already listening on {url}",
        f"OpenAI clients: base_url {url}/v1 · Anthropic clients: base_url {url}",
        *(f"Warning: {warning}" for warning in info["warnings"]),
    ]
    show(paragraph("\n".join(lines)))


def _run_settings(client: Client, args: Namespace) -> None:
    if not args.reset and args.value is None:
        rows = [row for row in client.settings() if args.name in {None, row["name"]}]
        if not rows:
            raise UsageMistake(f"%lm settings: there is no setting {args.name!r}.")
        show(settings(rows))
        return
    if args.name is None:
        raise UsageMistake("%lm settings: --reset needs a name.")
    if args.reset and args.value is not None:
        raise UsageMistake("%lm settings: give a value or --reset, not both.")
    row = client.change_setting(args.name, None if args.reset else args.value)
    show(joined(settings([row]), *(paragraph(warning) for warning in row["warnings"])))


def _run_launch(client: Client, args: Namespace) -> None:
    from lmnb.agents import targets
    from lmnb.agents.all import AGENTS
    from lmnb.agents.command import shell_lines

    agent = AGENTS[args.agent]
    choice = targets.choose(client, args.model, args.context_length)
    row = choice.row
    if row is None:
        progress = Progress(f"Loading {choice.model}")
        with progress.running():
            for event in choice.load(client):
                if event["type"] == "progress":
                    progress.set(event["progress"])
                else:
                    row = event
        progress.remove()
    assert row is not None
    target = targets.target(client, row, args.port)
    what = (
        f"{agent.title} with {target.model}, context {target.context} tokens. "
        "In a terminal, in the folder it is to work in:"
    )
    lines = [*(f"Warning: {remark}" for remark in targets.remarks(agent, row)), what]
    show(paragraph("\n".join(lines), shell_lines(agent.command(target), target)))


def _run_mcp(client: Client, args: Namespace) -> None:
    if args.action is not None and args.name is None:
        raise UsageMistake(f"%lm mcp {args.action} needs the NAME of a server.")
    if args.action == "login":
        _log_in(client, args)
        return
    if args.action == "logout":
        was_logged_in = client.log_out_mcp(args.name)
        note(f"{args.name} is forgotten." if was_logged_in else "Nobody was logged in.")
        return
    with transient("Starting the MCP servers"):
        rows = client.mcp()
    show(mcp(rows, client.home))


def _log_in(client: Client, args: Namespace) -> None:
    for event in client.log_in_mcp(args.name):
        if event["type"] == "done":
            note(f"Logged in to {event['name']}.")
            continue
        show(link("Log in here", event["url"]))
        if args.paste:
            asked = "It ends at a page that cannot be opened. Its address:"
            client.redirect_mcp(args.name, input(asked))


def _show_ui(client: Client, args: Namespace) -> None:
    from lmnb.notebook.widgets.ui import show as show_panel

    show_panel(client, args.panel)


def _show_log(client: Client, args: Namespace) -> None:
    if args.server:
        note("\n".join(client.log(args.lines)) or "The log is empty.")
        return
    filters = {name: getattr(args, name) for name in ("model", "status", "route")}
    show(requests(client.requests(args.lines, **filters), words=args.prompts))


_COMMANDS: dict[str, Callable[[Client, Namespace], None]] = {
    "status": _show_status,
    "get": _run_get,
    "downloads": _run_downloads,
    "ls": _show_ls,
    "ps": _show_ps,
    "load": _run_load,
    "use": _run_use,
    "unload": _run_unload,
    "inspect": run_inspect,
    "serve": _run_serve,
    "settings": _run_settings,
    "mcp": _run_mcp,
    "launch": _run_launch,
    "connect": _run_connect,
    "disconnect": _run_disconnect,
    "endpoints": _show_endpoints,
    "ui": _show_ui,
    "log": _show_log,
}

_LOCAL: dict[str, Callable[[Namespace], None]] = {
    "alias": run_alias,
    "history": run_history,
    "reset": run_reset,
    "show": run_show,
    "stop": run_stop,
}
"""Those that need no server."""

lm = LmMagic()

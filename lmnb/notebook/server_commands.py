"""`%lm serve`, `connect`, `settings` and the others about the server: their options, and what they do."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from lmnb.notebook.arguments import integer
from lmnb.notebook.defaults import model_name
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.output import note, show
from lmnb.notebook.progress import Progress, transient
from lmnb.notebook.requests import requests
from lmnb.notebook.status import endpoints, mcp, settings
from lmnb.notebook.table import joined, link, paragraph
from lmnb.notebook.widgets import NAMES

if TYPE_CHECKING:
    from lmnb.client import Client


def add_serve(commands: Any) -> None:
    """Declare `%lm serve`."""
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
    parser.set_defaults(run=run_serve)


def run_serve(client: Client, args: Namespace) -> None:
    """Open the port for other programs, or close it."""
    from lmnb.agents.lines import base_urls

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
        base_urls(url),
        *(f"Warning: {warning}" for warning in info["warnings"]),
    ]
    show(paragraph("\n".join(lines)))


def add_launch(commands: Any) -> None:
    """Declare `%lm launch`."""
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
    parser.set_defaults(run=run_launch)


def run_launch(client: Client, args: Namespace) -> None:
    """Show the command that starts an agent with a local model."""
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


def add_connect(commands: Any) -> None:
    """Declare `%lm connect`."""
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
    parser.set_defaults(run=run_connect)


def run_connect(client: Client, args: Namespace) -> None:
    """Add a server of others, whose models are used like one's own."""
    row = client.connect(args.url, name=args.name, key_env=args.key_env, save_key=args.save_key)
    models = ", ".join(f"{row['name']}/{model}" for model in row["models"])
    note(f"{row['name']} ({row['url']}) is connected. Its models: {models or 'none'}")


def add_disconnect(commands: Any) -> None:
    """Declare `%lm disconnect`."""
    parser = commands.add_parser(
        "disconnect", help="forget such a server", description="Forget a connected server."
    )
    parser.add_argument("name", metavar="NAME", help="as %%lm endpoints shows it")
    parser.set_defaults(run=run_disconnect)


def run_disconnect(client: Client, args: Namespace) -> None:
    """Take such a server away."""
    row = client.disconnect(args.name)
    note(f"{row['name']} ({row['url']}) is disconnected.")


def add_endpoints(commands: Any) -> None:
    """Declare `%lm endpoints`."""
    parser = commands.add_parser(
        "endpoints",
        help="connected servers",
        description="The connected servers, and how they are.",
    )
    parser.set_defaults(run=run_endpoints)


def run_endpoints(client: Client, _: Namespace) -> None:
    """List such servers."""
    show(endpoints(client.endpoints()))


def add_settings(commands: Any) -> None:
    """Declare `%lm settings`."""
    parser = commands.add_parser(
        "settings", help="what the server goes by", description="Show settings, or change one."
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="which one (all)")
    add("value", nargs="?", metavar="VALUE", help="what to set it to, such as 600 or off")
    add("--reset", action="store_true", help="back to its default")
    parser.set_defaults(run=run_settings)


def run_settings(client: Client, args: Namespace) -> None:
    """Show settings, or change one."""
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


def add_mcp(commands: Any) -> None:
    """Declare `%lm mcp`."""
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
    parser.set_defaults(run=run_mcp)


def run_mcp(client: Client, args: Namespace) -> None:
    """List the MCP servers, or log in to one."""
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


def add_ui(commands: Any) -> None:
    """Declare `%lm ui`."""
    parser = commands.add_parser(
        "ui", help="panels to click", description="All panels as tabs, or one of them alone."
    )
    parser.add_argument("panel", nargs="?", choices=NAMES, metavar="PANEL", help=", ".join(NAMES))
    parser.set_defaults(run=run_ui)


def run_ui(client: Client, args: Namespace) -> None:
    """Show panels."""
    from lmnb.notebook.widgets.ui import show as show_panel

    show_panel(client, args.panel)


def add_log(commands: Any) -> None:
    """Declare `%lm log`."""
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
    parser.set_defaults(run=run_log)


def run_log(client: Client, args: Namespace) -> None:
    """Show the last requests, or the server's log."""
    if args.server:
        note("\n".join(client.log(args.lines)) or "The log is empty.")
        return
    filters = {name: getattr(args, name) for name in ("model", "status", "route")}
    show(requests(client.requests(args.lines, **filters), words=args.prompts))

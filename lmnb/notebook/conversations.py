"""What has been said in this notebook: `%lm history`, `%lm reset` and `%lm show`. No server needed."""

from __future__ import annotations

from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lmnb.errors import NotFound
from lmnb.notebook.arguments import integer
from lmnb.notebook.output import note, show
from lmnb.notebook.reply import Reply, footer_bundle
from lmnb.notebook.table import joined, paragraph, table
from lmnb.notebook.turns import Turn

if TYPE_CHECKING:
    from lmnb.notebook.ask import AskMagic

_KEPT = 100
_SHORT = 300
"""Characters of a message that `%lm history` shows, unless all are wanted."""

_replies: deque[Reply] = deque(maxlen=_KEPT)


def remember(reply: Reply) -> None:
    """Keep an answer for `%lm show`: a page that was reloaded while it came has lost it."""
    _replies.append(reply)


def replies() -> Sequence[Reply]:
    """The answers that are kept, the last one last."""
    return tuple(_replies)


def forget() -> None:
    """Keep none."""
    _replies.clear()


def add_history(commands: Any) -> None:
    """Declare `%lm history`."""
    parser = commands.add_parser(
        "history",
        help="the conversations of this notebook",
        description="The messages that the next cell goes on from.",
    )
    _add_magic(parser)
    parser.add_argument("--full", action="store_true", help="long messages, too")
    parser.set_defaults(run=run_history, needs_server=False)


def add_reset(commands: Any) -> None:
    """Declare `%lm reset`."""
    parser = commands.add_parser(
        "reset",
        help="start conversations anew",
        description="Forget the conversation and its system prompt; models stay loaded.",
    )
    _add_magic(parser)
    parser.set_defaults(run=run_reset, needs_server=False)


def add_show(commands: Any) -> None:
    """Declare `%lm show`."""
    parser = commands.add_parser(
        "show",
        help="the last answers again",
        description="Show the last answer again, such as after a reload of the page.",
    )
    parser.add_argument(
        "count", nargs="?", type=integer(1), default=1, metavar="N", help="how many"
    )
    parser.set_defaults(run=run_show, needs_server=False)


def add_stop(commands: Any) -> None:
    """Declare `%lm stop`."""
    parser = commands.add_parser(
        "stop",
        help="stop answers in the background",
        description="Stop the answers that --bg has begun in this notebook; what came is kept.",
    )
    parser.set_defaults(run=run_stop, needs_server=False)


def run_stop(_: Namespace) -> None:
    """Stop what runs in the background."""
    from lmnb.notebook.background import stop_all

    count = stop_all()
    note(f"Stopped: {count}" if count else "Nothing runs in the background.")


def run_history(args: Namespace) -> None:
    """Show the conversations."""
    shown = []
    for magic in _chosen(args.magic):
        said = magic.conversation
        rows = [("system", said.system)] if said.system else []
        rows += [(turn["role"], _content(turn)) for turn in said.turns]
        if rows:
            cells = [(role, text if args.full else _shortened(text)) for role, text in rows]
            shown.append(joined(paragraph(f"%%{magic.name}"), table(("who", "what"), cells)))
    show(joined(*shown) if shown else {"text/plain": "Nothing has been said yet."})


def run_reset(args: Namespace) -> None:
    """Forget the conversations."""
    for magic in _chosen(args.magic):
        count = len(magic.conversation.turns)
        magic.reset()
        note(f"%%{magic.name} starts anew; {count} messages are forgotten.")


def run_show(args: Namespace) -> None:
    """Show answers again.

    Raises
    ------
    NotFound
        There are none.
    """
    if not _replies:
        raise NotFound("There is no answer to show yet.", hint="%%claude or %%openai asks.")
    for reply in list(_replies)[-args.count :]:
        show(reply.bundle())
        show(footer_bundle(reply.footer()))


def _add_magic(parser: Any) -> None:
    parser.add_argument(
        "magic", nargs="?", choices=("claude", "openai"), help="of this one only (both)"
    )


def _chosen(name: str | None) -> Iterator[AskMagic]:
    from lmnb.notebook.magics import claude, openai

    return (magic for magic in (claude, openai) if name in {None, magic.name})


def _content(turn: Turn) -> str:
    parts = [turn["content"]] if turn["content"] else []
    parts += [f"[{picture.media_type}]" for picture in turn.get("images", [])]
    parts += [f"{call['name']}({call['arguments']})" for call in turn.get("calls", [])]
    return "\n".join(parts)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[:_SHORT]} … ({len(text)} characters)"

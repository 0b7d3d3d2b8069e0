"""The options of `%%claude` and `%%openai`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from lmnb.notebook.arguments import Parser, integer, names, number, thinking, variable
from lmnb.notebook.defaults import model_name
from lmnb.notebook.output import is_notebook

EPILOG = """\
Tools are functions of the notebook, with type hints and a docstring; they run here, in the kernel,
when the model calls them, and each call is shown. With --schema, -o holds the value that the answer
stands for. --image takes a variable (bytes, path, Pillow, matplotlib, array), a file or an address.

{{name}} in the cell (and in --system) becomes the value of the variable `name`; a name that is no
variable stays as typed. The conversation goes on from cell to cell; a system prompt stays until
another is given. What no option says is taken from %config Lmnb and from [tool.lmnb] of the nearest
pyproject.toml. The answer is also in _ and Out[n]. The ■ button stops it and keeps what came."""


_APART = (
    ("bg", "tools"),
    ("bg", "samples"),
    ("bg", "code"),
    ("samples", "tools"),
    ("samples", "code"),
)
_SPELLED = {"samples": "-n"}


def make_parser(name: str, description: str, apis: Sequence[str]) -> Parser:
    """The options of the magic `name`, whose `apis` can be chosen if there are several."""
    parser = Parser(prog=f"%%{name}", description=description, epilog=EPILOG)
    add = parser.add_argument
    add("-m", "--model", type=model_name, help="model to ask (default: the one that is loaded)")
    add("-s", "--system", metavar="TEXT", help="system prompt")
    add("-o", "--out", type=variable, metavar="NAME", help="variable to keep the answer in")
    _add_sampling(parser)
    add("--raw", action="store_true", help="take the cell as it is: {{name}} means nothing")
    add("--new", action="store_true", help="start a new conversation")
    add("--image", action="append", metavar="X", help="show it a picture; may be repeated")
    add("--tools", type=names, metavar="F,G", help="functions that it may call")
    add("--max-steps", type=integer(1), default=10, metavar="N", help="answers at most (10)")
    add("--schema", metavar="NAME", help="pydantic model, dataclass, other type or JSON schema")
    _add_thinking(parser)
    add("--cells", type=integer(0), metavar="N", help="show it the last N cells")
    add("--code", action="store_true", help="put the code of the answer into the next cell")
    add("-n", "--samples", type=integer(1, 16), metavar="N", help="N answers, side by side")
    if "messages" not in apis:
        add(
            "--logprobs",
            nargs="?",
            const=5,
            type=integer(0, 20),
            metavar="N",
            help="how sure it is of each token, with N alternatives (5)",
        )
    add("--bg", action="store_true", help="answer while other cells run; %%lm stop stops it")
    add("--dry-run", action="store_true", help="show what would be asked, and ask nothing")
    if len(apis) > 1:
        add("--api", choices=list(apis), default=apis[0], help=f"default: {apis[0]}")
    return parser


def check(parser: Parser, args: Namespace) -> None:
    """Refuse options that make no sense together.

    Raises
    ------
    UsageMistake
        There are such.
    """
    for first, second in _APART:
        if getattr(args, first) and getattr(args, second):
            names_ = " and ".join(_SPELLED.get(one, f"--{one}") for one in (first, second))
            parser.error(f"{names_} do not go together")
    if args.bg and not is_notebook():
        parser.error("--bg needs a notebook: a terminal has one place to write to")


def _add_sampling(parser: Parser) -> None:
    add = parser.add_argument
    add("--temperature", type=number(0), metavar="T", help="0 is greedy")
    add("--top-p", type=number(0, 1), metavar="P", help="nucleus sampling, 0 to 1")
    add("--max-tokens", type=integer(1), metavar="N", help="longest answer, in tokens")
    add("--seed", type=integer(-(2**63), 2**64 - 1), metavar="N", help="for the same answer")


def _add_thinking(parser: Parser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--thinking",
        nargs="?",
        const=True,
        type=thinking,
        metavar="HOW",
        help="think: tokens at most, or low, medium, high, …",
    )
    group.add_argument(
        "--no-thinking",
        dest="thinking",
        action="store_false",
        default=None,
        help="do not think",
    )

"""The cell magics that ask a model: `%%claude` and `%%openai`."""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import replace
from functools import cached_property
from typing import Any, NoReturn, cast

from lmnb.errors import LmnbError
from lmnb.notebook import images, schemas, tools
from lmnb.notebook.api import Api, Request
from lmnb.notebook.arguments import Parser, integer, names, number, thinking, variable
from lmnb.notebook.exchange import Exchange
from lmnb.notebook.failures import Interrupted, UsageMistake
from lmnb.notebook.interpolate import interpolate
from lmnb.notebook.models import choose, ready, use
from lmnb.notebook.output import note, shell
from lmnb.notebook.reply import Reply
from lmnb.notebook.schemas import Schema, UnfitAnswer
from lmnb.notebook.turns import Turn

EPILOG = """\
Tools are functions of the notebook, with type hints and a docstring; they run here, in the kernel,
when the model calls them, and each call is shown. With --schema, -o holds the value that the answer
stands for. --image takes a variable (bytes, path, Pillow, matplotlib, array), a file or an address.

{{name}} in the cell (and in --system) becomes the value of the variable `name`; a name that is no
variable stays as typed. The conversation goes on from cell to cell; a system prompt stays until
another is given. The answer is also in _ and Out[n]. The ■ button stops it and keeps what came."""


class Conversation:
    """What one magic has said and heard so far. Changed only when a cell is done."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.system: str | None = None


class AskMagic:
    """One cell magic. Its first API is the one it uses unless told otherwise with `--api`."""

    def __init__(self, name: str, description: str, apis: dict[str, str]) -> None:
        self.name = name
        self.description = description
        self.apis = apis
        self.conversation = Conversation()

    @cached_property
    def parser(self) -> Parser:
        """The options."""
        parser = Parser(prog=f"%%{self.name}", description=self.description, epilog=EPILOG)
        add = parser.add_argument
        add("-m", "--model", help="model to ask (default: the one that is loaded)")
        add("-s", "--system", metavar="TEXT", help="system prompt")
        add("-o", "--out", type=variable, metavar="NAME", help="variable to keep the answer in")
        add("--temperature", type=number(0), metavar="T", help="0 is greedy")
        add("--top-p", type=number(0, 1), metavar="P", help="nucleus sampling, 0 to 1")
        add("--max-tokens", type=integer(1), metavar="N", help="longest answer, in tokens")
        add("--seed", type=integer(-(2**63), 2**64 - 1), metavar="N", help="for the same answer")
        add("--raw", action="store_true", help="take the cell as it is: {{name}} means nothing")
        add("--new", action="store_true", help="start a new conversation")
        add("--image", action="append", metavar="X", help="show it a picture; may be repeated")
        add("--tools", type=names, metavar="F,G", help="functions that it may call")
        add("--max-steps", type=integer(1), default=10, metavar="N", help="answers at most (10)")
        add("--schema", metavar="NAME", help="pydantic model, dataclass, other type or JSON schema")
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
        if len(self.apis) > 1:
            apis = list(self.apis)
            add("--api", choices=apis, default=apis[0], help=f"default: {apis[0]}")
        return parser

    def __call__(self, line: str, cell: str) -> Reply:
        """Ask, show the answer as it comes, and keep it."""
        args = self.parser.parse_line(line)
        if not cell.strip():
            raise UsageMistake("The cell is empty.", hint=f"Write the message below %%{self.name}.")
        if args.new:
            self.conversation = Conversation()
        prompt, system = self._texts(args, cell.removesuffix("\n"))
        question: Turn = {"role": "user", "content": prompt}
        variables = shell().user_ns
        if args.image:
            question["images"] = [images.load(name, variables) for name in args.image]
        toolbox = tools.find(args.tools, variables) if args.tools else None
        schema = schemas.find(args.schema, variables) if args.schema else None
        asked = Exchange([*self.conversation.turns, question], toolbox, args.max_steps)
        request = Request(
            model="",
            turns=(),
            system=(self.conversation.system if system is None else system) or None,
            temperature=args.temperature,
            top_p=args.top_p,
            max_tokens=args.max_tokens,
            seed=args.seed,
            thinking=args.thinking,
            schema=schema.json if schema else None,
            tools=list(toolbox.tools.values()) if toolbox else (),
        )
        return self._ask(args, asked, request, schema)

    def help(self) -> str:
        """What `%%name?` shows."""
        return self.parser.format_help()

    def _texts(self, args: Namespace, cell: str) -> tuple[str, str | None]:
        """The message and the system prompt, with the values of variables put in."""
        system: str | None = args.system
        if args.raw:
            return cell, system
        variables = shell().user_ns
        message, unknown = interpolate(cell, variables)
        if system is not None:
            system, unknown_too = interpolate(system, variables)
            unknown += unknown_too
        if unknown:
            left = ", ".join(f"{{{{{name}}}}}" for name in dict.fromkeys(unknown))
            note(f"Left as typed, because there is no such variable: {left}")
        return message, system

    def _ask(
        self, args: Namespace, asked: Exchange, request: Request, schema: Schema | None
    ) -> Reply:
        try:
            self._converse(args, asked, request)
        except KeyboardInterrupt:
            self._keep_interrupted(args, asked, request.system, schema)
        except LmnbError:
            asked.answer.fail()
            raise
        reply, problem = asked.reply(), None
        if schema is not None:
            reply, problem = _parsed(reply, schema, complete=asked.complete)
        asked.answer.finish(reply)
        self._keep(args, reply, request.system, reply if schema is None else reply.parsed)
        if problem is not None:
            shell().displayhook.update_user_ns(reply)
            raise problem
        return reply

    def _converse(self, args: Namespace, asked: Exchange, request: Request) -> None:
        with asked.answer.streaming():
            waiting = asked.answer.waiting
            waiting("Starting the lmnb server")
            from lmnb.client import attach

            client = attach()
            model = ready(client, args.model or choose(client), waiting)
            waiting("Importing the SDK")
            use(model.identifier)
            api = self._api(args)
            resource = api.connect(client)
        asked.run(api, resource, request._replace(model=model.identifier), model)

    def _keep_interrupted(
        self, args: Namespace, asked: Exchange, system: str | None, schema: Schema | None
    ) -> NoReturn:
        reply = asked.reply(interrupted=True)
        asked.answer.finish(reply)
        self._keep(args, reply, system, reply if schema is None else None)
        if not reply.text and not reply.calls:
            raise Interrupted("nothing of the answer had come yet") from None
        # A cell that raises has no result, but `_` should still hold what came.
        shell().displayhook.update_user_ns(reply)
        kept = f"{args.out} and _" if args.out and schema is None else "_"
        raise Interrupted(f"what came of the answer is kept in {kept}") from None

    def _keep(self, args: Namespace, reply: Reply, system: str | None, value: Any) -> None:
        """Go on from this answer, unless it is empty, and put `value` where `-o` says."""
        if len(reply.conversation) > len(self.conversation.turns):
            self.conversation.turns = list(reply.conversation)
            self.conversation.system = system
        if args.out:
            shell().user_ns[args.out] = value

    def _api(self, args: Namespace) -> Api:
        target = self.apis[getattr(args, "api", None) or next(iter(self.apis))]
        api: Any = importlib.import_module(target)
        return cast("Api", api)


def _parsed(reply: Reply, schema: Schema, *, complete: bool) -> tuple[Reply, UnfitAnswer | None]:
    """The reply with the value that it stands for, or why it stands for none."""
    try:
        value = schema.parse(reply.text, reply.stop_reason, complete=complete)
    except UnfitAnswer as error:
        return reply, error
    return replace(reply, parsed=value), None

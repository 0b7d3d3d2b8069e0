"""The cell magics that ask a model: `%%claude` and `%%openai`."""

from __future__ import annotations

import importlib
from argparse import Namespace
from contextlib import closing
from functools import cached_property
from typing import Any, cast

from lmnb.errors import LmnbError
from lmnb.notebook.answer import Answer
from lmnb.notebook.api import Api, Request
from lmnb.notebook.arguments import Parser, integer, number, variable
from lmnb.notebook.failures import Interrupted, UsageMistake
from lmnb.notebook.interpolate import interpolate
from lmnb.notebook.models import choose, ready, use
from lmnb.notebook.output import note, shell
from lmnb.notebook.reply import Reply, Turn

EPILOG = """\
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
        if len(self.apis) > 1:
            names = list(self.apis)
            add("--api", choices=names, default=names[0], help=f"default: {names[0]}")
        return parser

    def __call__(self, line: str, cell: str) -> Reply:
        """Ask, show the answer as it comes, and keep it."""
        args = self.parser.parse_line(line)
        if not cell.strip():
            raise UsageMistake("The cell is empty.", hint=f"Write the message below %%{self.name}.")
        if args.new:
            self.conversation = Conversation()
        prompt, system = self._texts(args, cell.removesuffix("\n"))
        return self._ask(args, prompt, system)

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
            names = ", ".join(f"{{{{{name}}}}}" for name in dict.fromkeys(unknown))
            note(f"Left as typed, because there is no such variable: {names}")
        return message, system

    def _ask(self, args: Namespace, prompt: str, system: str | None) -> Reply:
        answer = Answer()
        turns: list[Turn] = [*self.conversation.turns, {"role": "user", "content": prompt}]
        system = self.conversation.system if system is None else system
        try:
            with answer.streaming():
                self._converse(args, turns, system, answer)
        except KeyboardInterrupt:
            reply = answer.reply(turns, interrupted=True)
            answer.finish(reply)
            self._keep(args, reply, system)
            if not reply.text:
                raise Interrupted("nothing of the answer had come yet") from None
            # A cell that raises has no result, but `_` should still hold what came.
            shell().displayhook.update_user_ns(reply)
            kept = f"{args.out} and _" if args.out else "_"
            raise Interrupted(f"what came of the answer is kept in {kept}") from None
        except LmnbError:
            answer.fail()
            raise
        reply = answer.reply(turns)
        answer.finish(reply)
        self._keep(args, reply, system)
        return reply

    def _converse(
        self, args: Namespace, turns: list[Turn], system: str | None, answer: Answer
    ) -> None:
        answer.waiting("Starting the lmnb server")
        from lmnb.client import attach

        client = attach()
        wanted = args.model or choose(client)
        model = ready(client, wanted, answer.waiting)
        answer.waiting("Importing the SDK")
        use(model.identifier)
        api = self._api(args)
        resource = api.connect(client)
        answer.waiting(f"{model.identifier} is reading the prompt")
        answer.sent(model)
        request = Request(
            model=model.identifier,
            turns=turns,
            system=system or None,
            temperature=args.temperature,
            top_p=args.top_p,
            max_tokens=args.max_tokens,
            seed=args.seed,
        )
        with closing(api.stream(resource, request)) as parts:
            for part in parts:
                answer.add(part)

    def _keep(self, args: Namespace, reply: Reply, system: str | None) -> None:
        """Go on from this answer, unless it is empty, and put it where `-o` says."""
        if reply.text:
            self.conversation.turns = list(reply.conversation)
            self.conversation.system = system
        if args.out:
            shell().user_ns[args.out] = reply

    def _api(self, args: Namespace) -> Api:
        target = self.apis[getattr(args, "api", None) or next(iter(self.apis))]
        api: Any = importlib.import_module(target)
        return cast("Api", api)

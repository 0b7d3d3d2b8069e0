"""The cell magics that ask a model: `%%claude` and `%%openai`."""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, cast

from lmnb.errors import LmnbError
from lmnb.notebook import images, schemas, tools
from lmnb.notebook.api import Api, Request
from lmnb.notebook.arguments import Parser
from lmnb.notebook.conversations import remember
from lmnb.notebook.exchange import Exchange
from lmnb.notebook.failures import Interrupted, UsageMistake
from lmnb.notebook.interpolate import interpolate
from lmnb.notebook.models import asked as asked_model
from lmnb.notebook.models import choose, ready
from lmnb.notebook.options import make_parser
from lmnb.notebook.output import note, shell
from lmnb.notebook.progress import transient
from lmnb.notebook.reply import Reply
from lmnb.notebook.schemas import Schema, UnfitAnswer
from lmnb.notebook.turns import Turn

if TYPE_CHECKING:
    from lmnb.notebook.dry_run import DryRun


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
        return make_parser(self.name, self.description, list(self.apis))

    def __call__(self, line: str, cell: str) -> Reply | DryRun:
        """Ask, show the answer as it comes, and keep it."""
        args = self.parser.parse_line(line)
        if not cell.strip():
            raise UsageMistake("The cell is empty.", hint=f"Write the message below %%{self.name}.")
        said = Conversation() if args.new else self.conversation
        prompt, system = self._texts(args, cell.removesuffix("\n"))
        question: Turn = {"role": "user", "content": prompt}
        variables = shell().user_ns
        if args.image:
            question["images"] = [images.load(name, variables) for name in args.image]
        toolbox = tools.find(args.tools, variables) if args.tools else None
        schema = schemas.find(args.schema, variables) if args.schema else None
        asked = Exchange([*said.turns, question], toolbox, args.max_steps)
        request = Request(
            model="",
            turns=(),
            system=(said.system if system is None else system) or None,
            temperature=args.temperature,
            top_p=args.top_p,
            max_tokens=args.max_tokens,
            seed=args.seed,
            thinking=args.thinking,
            schema=schema.json if schema else None,
            tools=list(toolbox.tools.values()) if toolbox else (),
        )
        if args.dry_run:
            return self._rehearse(args, request._replace(turns=asked.turns))
        self.conversation = said
        return self._ask(args, asked, request, schema)

    def reset(self) -> None:
        """Forget what was said."""
        self.conversation = Conversation()

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

    def _rehearse(self, args: Namespace, request: Request) -> DryRun:
        """What would be asked. It changes nothing but `-o`."""
        with transient("Rendering the prompt"):
            from lmnb.client import attach
            from lmnb.notebook.dry_run import dry_run

            client = attach()
            model = args.model or choose(client)
            found = dry_run(client, self._api(args), request._replace(model=model))
        if args.out:
            shell().user_ns[args.out] = found
        return found

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
            asked_model(model.identifier, named=args.model is not None)
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
        remember(reply)
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

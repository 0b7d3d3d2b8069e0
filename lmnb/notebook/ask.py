"""The cell magics that ask a model: `%%claude` and `%%openai`."""

from __future__ import annotations

import importlib
from argparse import Namespace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from lmnb.errors import LmnbError
from lmnb.notebook.api import Api
from lmnb.notebook.arguments import Parser
from lmnb.notebook.background import Background
from lmnb.notebook.conversations import remember
from lmnb.notebook.defaults import fill_in
from lmnb.notebook.exchange import Exchange
from lmnb.notebook.failures import Interrupted, UsageMistake
from lmnb.notebook.models import asked as asked_model
from lmnb.notebook.models import choose, ready
from lmnb.notebook.options import check, make_parser
from lmnb.notebook.output import note, shell, show
from lmnb.notebook.parsing import parsed
from lmnb.notebook.progress import transient
from lmnb.notebook.question import Conversation, Question, make_question
from lmnb.notebook.reply import Reply
from lmnb.notebook.samples import Samples, Sampling

if TYPE_CHECKING:
    from lmnb.client import Client
    from lmnb.notebook.dry_run import DryRun

    Result: TypeAlias = Reply | Samples | Background | DryRun


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

    def __call__(self, line: str, cell: str) -> Result:
        """Ask, show the answer as it comes, and keep it."""
        args = self.parser.parse_line(line)
        if not cell.strip():
            raise UsageMistake("The cell is empty.", hint=f"Write the message below %%{self.name}.")
        check(self.parser, args)
        fill_in(args)
        said = Conversation() if args.new else self.conversation
        question = make_question(args, cell, said)
        if args.dry_run:
            return self._rehearse(question)
        self.conversation = said
        if args.bg:
            return self._ask_behind(question)
        if (args.samples or 1) > 1:
            return self._ask_often(question, args.samples)
        return self._ask(question)

    def reset(self) -> None:
        """Forget what was said."""
        self.conversation = Conversation()

    def help(self) -> str:
        """What `%%name?` shows."""
        return self.parser.format_help()

    # --- one answer ---------------------------------------------------------------

    def _ask(self, question: Question) -> Reply:
        args, request, schema = question.args, question.request, question.schema
        asked = Exchange(request.turns, question.toolbox, args.max_steps)
        try:
            self._converse(question, asked)
        except KeyboardInterrupt:
            self._keep_interrupted(question, asked)
        except LmnbError:
            asked.answer.fail()
            raise
        reply, problem = parsed(asked.reply(), schema, complete=asked.complete)
        asked.answer.finish(reply)
        if reply.logprobs:
            show(reply.heatmap.bundle())
        self._keep(question, reply, reply if schema is None else reply.parsed)
        if problem is not None:
            shell().displayhook.update_user_ns(reply)
            raise problem
        if args.code:
            _into_next_cell(reply)
        return reply

    def _converse(self, question: Question, asked: Exchange) -> None:
        with asked.answer.streaming():
            waiting = asked.answer.waiting
            waiting("Starting the lmnb server")
            client, name = _found(question)
            model = ready(client, name, waiting)
            waiting("Importing the SDK")
            asked_model(model.identifier, named=question.args.model is not None)
            api = self._api(question.args)
            resource = api.connect(client)
        asked.run(api, resource, question.request._replace(model=model.identifier), model)

    def _keep_interrupted(self, question: Question, asked: Exchange) -> NoReturn:
        reply, whole = asked.reply(interrupted=True), question.schema is None
        asked.answer.finish(reply)
        self._keep(question, reply, reply if whole else None)
        if not reply.text and not reply.calls:
            raise Interrupted("nothing of the answer had come yet") from None
        # A cell that raises has no result, but `_` should still hold what came.
        shell().displayhook.update_user_ns(reply)
        out = question.args.out
        kept = f"{out} and _" if out and whole else "_"
        raise Interrupted(f"what came of the answer is kept in {kept}") from None

    # --- other ways to be answered --------------------------------------------------

    def _ask_often(self, question: Question, count: int) -> Samples:
        with transient("Loading the model"):
            client, name = _found(question)
            model = ready(client, name, lambda _: None)
            asked_model(model.identifier, named=question.args.model is not None)
            api = self._api(question.args)
        request = question.request._replace(model=model.identifier)
        sampling = Sampling(client, api, request, count, model)
        try:
            sampling.run()
        except KeyboardInterrupt:
            samples = sampling.finish(question.schema, interrupted=True)
            self._keep(question, samples[0], samples)
            shell().displayhook.update_user_ns(samples)
            raise Interrupted("what came of the answers is kept in _") from None
        samples = sampling.finish(question.schema)
        value: Any = samples
        if question.schema is not None:
            value = [reply.parsed for reply in samples]
        self._keep(question, samples[0], value)
        return samples

    def _ask_behind(self, question: Question) -> Background:
        with transient("Starting the lmnb server"):
            client, model = _found(question)
        handle = Background(question, client, partial(self._go_on, question))
        asked_model(model, named=question.args.model is not None)
        if question.args.out:
            shell().user_ns[question.args.out] = handle
        handle.begin(partial(self._api, question.args), model)
        return handle

    def _rehearse(self, question: Question) -> DryRun:
        """What would be asked. It changes nothing but `-o`."""
        with transient("Rendering the prompt"):
            from lmnb.notebook.dry_run import dry_run

            client, model = _found(question)
            api = self._api(question.args)
            found = dry_run(client, api, question.request._replace(model=model))
        if question.args.out:
            shell().user_ns[question.args.out] = found
        return found

    def _keep(self, question: Question, reply: Reply, value: Any) -> None:
        """Go on from this answer, and put `value` where `-o` says."""
        self._go_on(question, reply)
        if question.args.out:
            shell().user_ns[question.args.out] = value

    def _go_on(self, question: Question, reply: Reply) -> None:
        """The next cell goes on from this answer, unless it is empty, or another went on before."""
        remember(reply)
        said, before = self.conversation, len(question.request.turns) - 1
        if len(reply.conversation) > before == len(said.turns):
            said.turns, said.system = list(reply.conversation), question.request.system

    def _api(self, args: Namespace) -> Api:
        target = self.apis[getattr(args, "api", None) or next(iter(self.apis))]
        api: Any = importlib.import_module(target)
        return cast("Api", api)


def _found(question: Question) -> tuple[Client, str]:
    """The server, and the name of the model to ask."""
    from lmnb.attaching import attach

    client = attach()
    return client, question.args.model or choose(client)


def _into_next_cell(reply: Reply) -> None:
    if reply.code:
        shell().set_next_input(reply.code)
    else:
        note("There is no code in the answer.")

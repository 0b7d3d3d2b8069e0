"""Conversations rendered to prompt text by the model's own template, in a process apart.

See `lmnb.chat.rendering.process` for what that process may do, `lmnb.chat.rendering.marks` for how people's
words are kept from becoming control tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lmnb.chat.confined import cause_of_death
from lmnb.chat.conversation import Message, Tool
from lmnb.chat.formats.format import Format
from lmnb.chat.rendering.job import AnyJob, Derived, FormatJob, Job, Outcome, Refused, Rendered
from lmnb.chat.rendering.media import Media
from lmnb.chat.rendering.turns import make_turns
from lmnb.chat.tool_names import adapt
from lmnb.engine.options import Segment
from lmnb.errors import InvalidRequest, LmnbError

SECONDS = 5.0
"""Longest time for one prompt by the clock. Computing is limited more tightly by the renderer."""
SECONDS_PER_TURN = 0.01

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The form most models without a template of their own were trained on; the stated default."""

_CHATML_STOP = ("<|im_end|>",)
_MOST_FORMATS = 64
_RESERVED = ("messages", "add_generation_prompt")


class Prompted(msgspec.Struct, frozen=True):
    """A prompt. `stop` ends the model's turn besides its own end tokens."""

    segments: tuple[Segment, ...]
    stop: tuple[str, ...] = ()


def choose_template(templates: Mapping[str, str], *, tools: bool) -> str | None:
    """The one for a conversation, of those a model's file carries by name; None: it has none.

    `tool_use` where tools are given, else `default`; where all have other names, the first.
    """
    names = ("tool_use", "default") if tools else ("default",)
    found = (templates[name] for name in names if name in templates)
    return next(found, None) or next(iter(templates.values()), None)


class Renderer:
    """Renders with one child process, started when it is first needed, replaced when it dies.

    Jobs run one after another; each takes a fraction of a millisecond to a few milliseconds.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._child: _Child | None = None
        self._formats: OrderedDict[tuple[str | None, str, str], Derived | Refused] = OrderedDict()

    async def render(
        self,
        template: str | None,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        bos_text: str = "",
        eos_text: str = "",
        continue_final: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Prompted:
        """The prompt that ends where the assistant is to go on.

        Parameters
        ----------
        template
            Jinja text; None is `CHATML`.
        messages
            Their text, thinking, images, sounds, tool calls and results.
        tools
            Told to the model by the template, or by lmnb where the template knows none
            (`lmnb.chat.formats.default`); under the names that `lmnb.chat.tool_names` gives them.
        continue_final
            The last message is the assistant's, and to be continued.
        arguments
            Further variables for the template (`enable_thinking`).

        Raises
        ------
        InvalidRequest
            The template refuses the conversation, fails, or goes beyond its limits. What it says
            itself is part of the message.
        LmnbError
            The child process cannot be kept alive; not the template's fault.
        """
        if continue_final and (not messages or messages[-1].role != "assistant"):
            raise InvalidRequest(
                "Only an assistant message can be continued, so it must be the last.",
                param="messages",
            )
        media, adapted = Media(), adapt(tools)
        job = Job(
            template=CHATML if template is None else template,
            turns=make_turns(messages, media, adapted),
            tools=adapted.tools,
            bos_text=bos_text,
            eos_text=eos_text,
            continue_final=continue_final,
            arguments={k: v for k, v in (arguments or {}).items() if k not in _RESERVED},
        )
        outcome = await self._run(job)
        assert isinstance(outcome, Rendered)
        segments = media.put_back(outcome.segments)
        return Prompted(segments, () if template is not None else _CHATML_STOP)

    async def format(
        self, template: str | None, *, bos_text: str = "", eos_text: str = ""
    ) -> Format:
        """How models with this template write their answers.

        Found once for each template, of those used last, also that it cannot be found. Parameters and errors are those of `render`.
        """
        key = (template, bos_text, eos_text)
        source = CHATML if template is None else template
        job = FormatJob(template=source, bos_text=bos_text, eos_text=eos_text)
        outcome = self._formats.pop(key, None) or await self._settled(job)
        assert not isinstance(outcome, Rendered)
        if isinstance(outcome, Derived) or outcome.kind != "late":
            self._formats[key] = outcome
        if len(self._formats) > _MOST_FORMATS:
            self._formats.popitem(last=False)
        if isinstance(outcome, Refused):
            raise _error(outcome)
        return outcome.format

    async def warm_up(self) -> None:
        """Start the child process, so that a later `render` need not wait for it."""
        if self._child is None:
            async with self._lock:
                await self._started()

    async def close(self) -> None:
        """End the child process. A later `render` starts another."""
        async with self._lock:
            await self._discard()

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        return None if self._child is None else self._child.process.pid

    # --- inside ------------------------------------------------------------------

    async def _run(self, job: AnyJob) -> Rendered | Derived:
        outcome = await self._settled(job)
        if isinstance(outcome, Refused):
            raise _error(outcome)
        return outcome

    async def _settled(self, job: AnyJob) -> Outcome:
        # A caller that is cancelled leaves its job to end by itself, or the pipe would be cut
        # in the middle of an answer.
        return await asyncio.shield(asyncio.ensure_future(self._done(job)))

    async def _done(self, job: AnyJob) -> Outcome:
        async with self._lock:
            # One that was ended by somebody else, perhaps long before it got the job, is replaced.
            outcome = await self._try(job) or await self._try(job)
        if outcome is None:
            raise LmnbError("The process that renders chat templates ended unexpectedly.")
        return outcome

    async def _try(self, job: AnyJob) -> Outcome | None:
        """The outcome; None if the child died for a reason that is not the job's."""
        turns = len(job.turns) if isinstance(job, Job) else 0
        seconds = SECONDS + SECONDS_PER_TURN * turns
        child = await self._started()
        try:
            async with asyncio.timeout(seconds):
                outcome = await child.exchange(job)
        except TimeoutError:
            await self._discard()
            return Refused("late", f"it did not finish within {seconds:.0f} seconds")
        except (EOFError, OSError):
            cause = cause_of_death(await self._discard() or 0)
            return None if cause is None else Refused("error", cause)
        if isinstance(outcome, Refused) and outcome.kind == "memory":
            await self._discard()
        return outcome

    async def _started(self) -> _Child:
        if self._child is None:
            self._child = await _Child.start()
        return self._child

    async def _discard(self) -> int | None:
        """End the child; its exit status."""
        child, self._child = self._child, None
        return None if child is None else await child.end()


class _Child:
    """The rendering process and the socket to it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)

    @classmethod
    async def start(cls) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn(theirs)
        return cls(process, *await asyncio.open_connection(sock=ours))

    async def exchange(self, job: AnyJob) -> Outcome:
        try:
            data = msgspec.msgpack.encode(job)
        except OverflowError:
            raise InvalidRequest(
                "There is a number in the request that does not fit 64 bits.",
                hint="Send it as a string.",
            ) from None
        self._writer.write(struct.pack("!I", len(data)) + data)
        (size,) = struct.unpack("!I", await self._reader.readexactly(4))
        return self._decoder.decode(await self._reader.readexactly(size))

    async def end(self) -> int:
        """Close the socket, and kill unless the process has died on its own."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        try:
            return await asyncio.to_thread(self.process.wait, 0.2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "lmnb.chat.rendering.process", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )


def _error(refused: Refused) -> InvalidRequest:
    if refused.kind == "template":
        return InvalidRequest(
            f"The model's chat template refuses this conversation: {refused.message}",
            param="messages",
        )
    reason = {
        "error": refused.message,
        "late": refused.message,
        "output": "it prints more text than any context holds",
        "memory": "it takes too much memory",
    }[refused.kind]
    return InvalidRequest(f"The model's chat template cannot be used: {reason}.")

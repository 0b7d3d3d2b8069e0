"""*Chat*: a conversation with a loaded model, which branches wherever one likes."""

from __future__ import annotations

import html
from functools import partial
from typing import Any

import ipywidgets

from lmnb.errors import ContextOverflow, InvalidRequest, LmnbError, ModelNotFound, ServerError
from lmnb.follow import State
from lmnb.notebook.output import Bundle, Elapsed, redraw_seconds
from lmnb.notebook.table import joined, paragraph, table
from lmnb.notebook.widgets.answering import Answering
from lmnb.notebook.widgets.bubble import Bubble
from lmnb.notebook.widgets.pace import Pace
from lmnb.notebook.widgets.panel import Panel, column, offer, row, show, text, wide
from lmnb.notebook.widgets.tree import Message, Tree

_NO_MODEL = "No chat model is loaded: the panel <i>Load</i> loads one, and so does %lm load."
_HEIGHT = "34em"
_WAITING = 1.0  # Seconds between two looks at the clock.


class Chat(Panel):
    """Messages, and what the next one is written in.

    tree
        What has been said, in all branches; chats are branches, too.
    bubbles
        What is shown of it, by the message.
    """

    title = "Chat"

    def build(self) -> list[Any]:
        """The model, the messages, the box and its buttons."""
        self.tree = Tree()
        self.bubbles: dict[Message, Bubble] = {}
        self._answering: Answering | None = None
        self._pace = Pace()
        self._waited, self._told = Elapsed(), Elapsed()
        self._is_due = False  # Whether the answer will be drawn soon.
        self._asked_back = ""  # What a branch has put into the box.
        self.model = ipywidgets.Dropdown(description="Chat with", **wide())
        self.model.observe(self._chosen, "value")
        self.new = _button("New chat", "Begin anew; this chat stays, as a branch")
        self.new.on_click(lambda _: self.post(self._new))
        self.log = column()
        self.log.layout.flex = "0 0 auto"
        # Reversed, a box with a scroll bar stays at its end while that grows.
        view = ipywidgets.VBox((self.log,))
        view.layout = {
            "width": "100%",
            "max_height": _HEIGHT,
            "overflow": "auto",
            "flex_flow": "column-reverse nowrap",
        }
        self.branching = text()
        self.back = _button("Back", "Back to the branch that was here")
        self.back.on_click(lambda _: self.post(self._back))
        self.box = ipywidgets.Textarea(
            placeholder="Message", rows=3, continuous_update=False, layout={"width": "100%"}
        )
        self.send = ipywidgets.Button(description="Send", icon="play")
        self.send.on_click(lambda _: self.post(self._send))
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="End the answer; what has come stays"
        )
        self.stop.on_click(self._stop_clicked)
        self.note = text()
        self._draw_log()
        return [
            *(row(self.model, self.new), view, row(self.branching, self.back), self.box),
            *(row(self.send, self.stop), self.note),
        ]

    def draw(self, state: State) -> None:
        """Other models may be loaded, and the chosen one gone."""
        loaded = [one["id"] for one in state["loaded"] if one["kind"] == "llm"]
        chosen = self.model.value
        offer(self.model, loaded)
        lines = []
        if chosen is not None and chosen not in loaded:
            follows = f"; {self.model.value} answers from now on" if loaded else ""
            lines.append(f"{html.escape(chosen + ' is not loaded any more' + follows)}.")
        elif loaded and self.model.value == chosen:
            return
        show(self.note, "<br>".join(lines if loaded else [*lines, _NO_MODEL]))

    def tick(self) -> None:
        """The wait for an answer goes on."""
        if self._answering is not None and not self._answering.collected.text:
            self._tell_wait()

    def left(self) -> Bundle | None:
        """What was said, as far as it is looked at."""
        rows = [(_WHO[one.role], one.text) for one in self.tree.path]
        return joined(paragraph("The chat:"), table(("Who", "What"), rows)) if rows else None

    def resume(self, former: Panel) -> None:
        """Go on with the same tree."""
        assert isinstance(former, Chat)

        def take() -> None:
            self.tree = former.tree
            self._draw_log()

        self.post(take)

    def close(self) -> None:
        """An answer that is still coming ends."""
        self.post(self._stop)
        super().close()

    # --- asking -------------------------------------------------------------------

    def _send(self) -> None:
        words, model = self.box.value, self.model.value
        if self._answering is not None:
            self._refuse()
        elif not words.strip():
            self.fail(InvalidRequest("The message is empty."))
        elif model is None:
            self.fail(ModelNotFound("No chat model is loaded.", hint="Load one first."))
        else:
            self.box.value = ""
            self.tree.add("user", words)
            self._ask(model)

    def _ask(self, model: str) -> None:
        show(self.failure, "")
        turns = self.tree.turns
        self.tree.add("assistant")
        self._pace, self._waited, self._told = Pace(), Elapsed(), Elapsed()

        # Both are called on another thread, perhaps before the name is set.
        def ended(error: LmnbError | None) -> None:
            self.post(lambda: self._ended(answering, error))

        answering = Answering(model, turns, changed=self._touch, ended=ended)
        self._answering = answering
        self._draw_log()

    def _touch(self) -> None:
        """There is more to draw: it is soon. From any thread."""
        if not self._is_due:
            self._is_due = True
            self.stage.later(redraw_seconds(), lambda: self.guarded(self._grow))

    def _grow(self) -> None:
        self._is_due = False
        if self._answering is None:
            return
        words = self._answering.collected.text
        if not words:
            if self._told() >= _WAITING:
                self._tell_wait()
        elif not self.bubbles[self.tree.end].grow(words, self._pace):
            self._touch()

    def _tell_wait(self) -> None:
        assert self._answering is not None
        self._told = Elapsed()
        thinking = self._answering.collected.thinking
        what = f"Thinking · {len(thinking.split())} words" if thinking else "Reading"
        self.bubbles[self.tree.end].wait(f"{what} · {self._waited():.0f} s")

    def _stop_clicked(self, _: Any) -> None:
        # At once, also if the widgets' thread has much to do.
        if (answering := self._answering) is not None:
            answering.stop()
        self.post(self._stop)

    def _stop(self) -> None:
        if (answering := self._answering) is not None:
            answering.stop()
            self._ended(answering, None)

    def _ended(self, answering: Answering, error: LmnbError | None) -> None:
        """Keep what has come. If nothing has, nothing was asked, and the words are back in the box."""
        if answering is not self._answering:
            return  # It was stopped, and what it had is kept already.
        self._answering = None
        answer, collected = self.tree.end, answering.collected
        if collected.text or collected.thinking or collected.end is not None:
            answer.text, answer.thinking = collected.text, collected.thinking
            answer.footer = answering.footer()
            if error is not None:
                answer.footer += " · ✗ the answer ends here because of an error"
            self.bubbles[answer].draw()
        else:
            question = answer.before
            assert question is not None
            self.tree.drop(question)
            self.box.value = "\n".join(filter(None, (question.text, self.box.value)))
        if error is not None:
            self.fail(_in_the_panel(error))
        self._draw_log()

    # --- branches -----------------------------------------------------------------

    def _new(self) -> None:
        self._stop()
        self.tree.go_back(self.tree.root)
        self._draw_log()

    def _branch(self, message: Message) -> None:
        """Go on from an answer, or ask instead of a question, whose words are to be changed."""
        if self._answering is not None:
            self._refuse()
            return
        if message.role == "user":
            assert message.before is not None
            self.tree.go_back(message.before)
            if not self.box.value.strip():
                self.box.value = self._asked_back = message.text
        else:
            self.tree.go_back(message)
        self._draw_log()

    def _switch(self, message: Message, step: int) -> None:
        if self._answering is not None:
            self._refuse()
            return
        self.tree.switch(message, step)
        self._draw_log()

    def _back(self) -> None:
        if self.box.value == self._asked_back:
            self.box.value = ""
        self.tree.go_on()
        self._draw_log()

    def _refuse(self) -> None:
        self.fail(InvalidRequest("An answer is still coming.", hint="Stop it first."))

    # --- showing ------------------------------------------------------------------

    def _draw_log(self) -> None:
        path = self.tree.path
        gone = [one for message, one in self.bubbles.items() if message not in path]
        self.bubbles = {one: self.bubbles.get(one) or self._bubble(one) for one in path}
        for bubble in self.bubbles.values():
            bubble.draw_branches()
        children = tuple(bubble.root for bubble in self.bubbles.values())
        if children != self.log.children:
            self.log.children = children
        for bubble in gone:
            bubble.close()
        self._draw_buttons()

    def _bubble(self, message: Message) -> Bubble:
        return Bubble(
            message,
            branch=lambda one: self.post(partial(self._branch, one)),
            switch=lambda one, step: self.post(partial(self._switch, one, step)),
        )

    def _draw_buttons(self) -> None:
        is_busy, end = self._answering is not None, self.tree.end
        self.send.disabled, self.stop.disabled = is_busy, not is_busy
        self.new.disabled = end is self.tree.root
        what = "chat" if end is self.tree.root else "branch"
        show(self.branching, f"The next message begins a new {what}." if end.after else "")
        self.back.layout.display = None if end.after else "none"

    def _chosen(self, _: Any) -> None:
        if not self.stage.is_here():
            self.post(lambda: show(self.note, ""))


_WHO = {"user": "You", "assistant": "Model"}


def _button(description: str, tooltip: str) -> Any:
    layout = ipywidgets.Layout(width="auto")
    return ipywidgets.Button(description=description, tooltip=tooltip, layout=layout)


def _in_the_panel(error: LmnbError) -> LmnbError:
    """The same error with what can be done about it here."""
    if isinstance(error, ContextOverflow):
        error.hint = "Go on from an earlier message, begin a new chat, or load the model with more."
    elif isinstance(error, ServerError) and error.hint:
        error.hint = "Once the model is loaded again, send the message again. %lm log says more."
    return error

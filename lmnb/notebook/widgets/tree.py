"""A conversation with branches. No widgets here."""

from __future__ import annotations

from collections.abc import Sequence

from lmnb.notebook.turns import Turn


class Message:
    """One message, and those that have followed it in any branch.

    role
        "user" or "assistant".
    footer
        How an answer came about, or why it ends where it does.
    """

    def __init__(self, role: str, text: str = "", before: Message | None = None) -> None:
        self.role = role
        self.text = text
        self.thinking = ""
        self.footer = ""
        self.before = before
        self.after: list[Message] = []
        self.chosen = 0  # Which of those in `after` is gone on with.

    @property
    def siblings(self) -> Sequence[Message]:
        """The messages that follow the same one, this one among them: a branch begins with each."""
        return self.before.after if self.before is not None else [self]


class Tree:
    """All messages. What is looked at is the way from the first to `end`.

    The next message follows `end`; where others do so already, it begins a branch.
    """

    def __init__(self) -> None:
        self.root = Message("root")
        self.end = self.root

    @property
    def path(self) -> list[Message]:
        """The messages from the first to `end`."""
        found: list[Message] = []
        one = self.end
        while one.before is not None:
            found.append(one)
            one = one.before
        return found[::-1]

    @property
    def turns(self) -> list[Turn]:
        """The path as a model is told it, without empty answers."""
        return [{"role": one.role, "content": one.text} for one in self.path if one.text]

    def add(self, role: str, text: str = "") -> Message:
        """Go on with a message."""
        one = Message(role, text, self.end)
        self.end.after.append(one)
        self.end.chosen = len(self.end.after) - 1
        self.end = one
        return one

    def drop(self, message: Message) -> None:
        """Take a message away, with all that follows it."""
        before = message.before
        assert before is not None
        is_on_path = message in self.path
        before.after.remove(message)
        before.chosen = max(len(before.after) - 1, 0)
        if is_on_path:
            self.end = before

    def go_back(self, message: Message) -> None:
        """Let the next message follow this one; what does so already stays, in its branch."""
        self.end = message

    def go_on(self) -> None:
        """Go to the end of the branch that was looked at last."""
        while self.end.after:
            self.end = self.end.after[self.end.chosen]

    def switch(self, message: Message, step: int) -> None:
        """Look at another branch than the one that begins with this message, `step` further on."""
        before = message.before
        assert before is not None
        before.chosen = (before.after.index(message) + step) % len(before.after)
        self.end = before
        self.go_on()

"""The thread on which all widgets of a kernel change.

A click arrives on the kernel's main thread, or on that of a subshell, depending on the front end
and on ipykernel; while a cell runs, the main thread is not to be had. So neither does anything but
put a task here, and only this thread changes a widget: nothing of it happens at the same time, and
panels follow while cells run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

from lmnb.follow import Follower, State

Task: TypeAlias = Callable[[], None]

_TICK = 1.0


class Actor(Protocol):
    """What stands on a stage. Everything is called on its thread, and must not raise."""

    def follow(self, state: State | None) -> None:
        """The server's state has changed; None is "there is no server"."""

    def tick(self) -> None:
        """About a second has passed."""


class Stage:
    """Runs tasks one after the other, tells its actors what the server does. Close it in the end."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._actors: list[Actor] = []
        self._state: State | None = None
        self._thread = threading.Thread(target=self._run, name="lmnb-widgets", daemon=True)
        self._thread.start()
        self._follower = Follower(lambda state: self.post(lambda: self._tell(state)))

    def add(self, actor: Actor) -> None:
        """Let it follow, from the next task on."""

        def enter() -> None:
            self._actors.append(actor)
            actor.follow(self._state)

        self.post(enter)

    def remove(self, actor: Actor) -> None:
        """Let it follow no more."""
        self.post(lambda: self._actors.remove(actor))

    def post(self, task: Task) -> None:
        """Have a task run soon. From any thread; it must not raise."""
        self._tasks.put(task)

    def later(self, seconds: float, task: Task) -> None:
        """Have a task run in a while."""
        timer = threading.Timer(seconds, self.post, (task,))
        timer.daemon = True
        timer.start()

    def is_here(self) -> bool:
        """Whether this is the stage's own thread: a change made here is not the user's."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Run what has been posted, then nothing more."""
        self._follower.close()
        self._tasks.put(None)
        self._thread.join()

    def _tell(self, state: State | None) -> None:
        self._state = state
        for actor in self._actors:
            actor.follow(state)

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=_TICK)
            except queue.Empty:
                for actor in self._actors:
                    actor.tick()
                continue
            if task is None:
                return
            task()

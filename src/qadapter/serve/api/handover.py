"""From one thread to an event loop, which is woken once for all that is handed over before it gets to run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Handover:
    """Calls that one thread wants made in a loop, in their order.

    A step of the engine has something to say to every stream. Waking the loop for each of them, as
    `loop.call_soon_threadsafe` does, would make the two threads pass Python's lock back and forth as often.

    Args:
        loop: where the calls are made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._woken = False

    def put(self, function: Callable[[Any], object], value: Any) -> None:
        """Have `function(value)` called in the loop; from any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._calls.append((function, value))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._woken = False  # before the calls: what comes while they are made wakes the loop again
        while self._calls:
            function, value = self._calls.popleft()
            function(value)

"""The queue in front of the engine: who waits, who comes next, who is turned away."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence

from ...errors import QAdapterError
from .request import Request


class RefusedError(QAdapterError):
    """A request that cannot be taken now.

    Args:
        message: why.
        retry_after: seconds after which it may be worth another try; None where this engine will take none any more.
    """

    def __init__(self, message: str, retry_after: int | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Scheduler:
    """A bounded queue, first come first served. Safe to use from several threads.

    Args:
        max_queue: most requests that wait.
    """

    def __init__(self, max_queue: int) -> None:
        self.max_queue = max_queue
        self.changed = threading.Condition()
        """Notified when there is something to do."""
        self._waiting: deque[Request] = deque()
        self._cancelled: set[Request] = set()
        self._closed = False
        self._seconds_per_request = 1.0

    def submit(self, requests: Sequence[Request]) -> None:
        """Take all of them, or none.

        Raises:
            RefusedError: the queue has no room for all, or it is closed.
        """
        with self.changed:
            if self._closed:
                raise RefusedError("the server is shutting down and takes no new requests.", retry_after=None)
            if len(self._waiting) + len(requests) > self.max_queue:
                seconds = math.ceil(self._seconds_per_request * (len(self._waiting) + 1))
                raise RefusedError(
                    f"{len(self._waiting)} requests are waiting and the queue holds {self.max_queue}.",
                    retry_after=min(max(seconds, 1), 60),
                )
            self._waiting.extend(requests)
            self.changed.notify_all()

    def next(self, free: int, columns: int) -> list[Request]:
        """The requests that have waited longest and can be begun together; none where there is no room for the first.

        Args:
            free: slots for their choices.
            columns: most prompt tokens to read, each prompt counted as long as the longest of them; a single one may
                be longer.
        """
        taken: list[Request] = []
        longest = 0
        with self.changed:
            while self._waiting and (request := self._waiting[0]).choices <= free:
                longest = max(longest, len(request.prompt_ids))
                if taken and longest * (len(taken) + 1) > columns:
                    break
                taken.append(self._waiting.popleft())
                free -= request.choices
        return taken

    def cancel(self, request: Request) -> None:
        """Mark a request as not wanted any more, wherever it is."""
        with self.changed:
            self._cancelled.add(request)
            self.changed.notify_all()

    def overdue(self, running: Sequence[Request]) -> tuple[list[Request], list[Request]]:
        """Remove from the queue what was cancelled or is past its deadline.

        Args:
            running: the requests that are not in the queue any more.

        Returns:
            Those cancelled and those past their deadline, of the queue and of `running`.
        """
        with self.changed:
            cancelled, self._cancelled = self._cancelled, set()
            now = time.monotonic()
            every = [*self._waiting, *running]
            gone = [request for request in every if request in cancelled]
            late = [request for request in every if request.deadline <= now and request not in cancelled]
            leaving = {*gone, *late}
            self._waiting = deque(request for request in self._waiting if request not in leaving)
            return gone, late

    def close(self) -> None:
        """Take no new requests; those that wait stay."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def clear(self) -> list[Request]:
        """Empty the queue; returns what was in it."""
        with self.changed:
            waiting, self._waiting = list(self._waiting), deque()
            return waiting

    def answered(self, seconds: float) -> None:
        """A request has been answered and took `seconds` of the engine, shared with others: for Retry-After."""
        with self.changed:
            self._seconds_per_request += 0.2 * (seconds - self._seconds_per_request)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        with self.changed:
            return len(self._waiting)

    @property
    def closed(self) -> bool:
        return self._closed

"""Requests in the engine's thread, their events in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from ..engine import Delta, Event, Failed, RefusedError, Request
from .errors import ApiError, ClientGoneError
from .service import Service

Result = TypeVar("Result")


class Answering:
    """Requests that are being answered. Whoever leaves its `with` block before they have ended cancels them.

    Args:
        service: its engine answers, its handover brings what it says.
        requests: their `emit` is replaced.

    Raises:
        ApiError: 429 where the queue is full, 503 while shutting down.
    """

    def __init__(self, service: Service, requests: Sequence[Request]) -> None:
        self._engine, self._handover = service.engine, service.handover
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._requests = [replace(request, emit=self._listener(i)) for i, request in enumerate(requests)]
        self._left = {i: request.choices for i, request in enumerate(requests)}
        try:
            self._engine.submit(self._requests)
        except RefusedError as error:
            raise refusal(error) from error

    def _listener(self, number: int) -> Any:
        def emit(event: Event) -> None:
            self._handover.put(self._events.put_nowait, (number, event))

        return emit

    def __enter__(self) -> Answering:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Give up the requests that have not ended."""
        for number in self._left:
            self._engine.cancel(self._requests[number])
        self._left = {}

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Number of the request and what one of its choices has grown by, until all have ended.

        Raises:
            ApiError: 408 past a deadline, 503 at a shutdown or without memory for the prompt, 500 after a fault.
        """
        while self._left:
            number, event = await self._events.get()
            if isinstance(event, Failed):
                del self._left[number]
                raise _failure(event)
            if event.finish is not None:
                self._left[number] -= 1
                if not self._left[number]:
                    del self._left[number]
            yield number, event


def refusal(error: RefusedError) -> ApiError:
    """429 where another try may be worth it, 503 while shutting down."""
    status, code = (503, "shutting_down") if error.retry_after is None else (429, "queue_full")
    return ApiError(status, str(error), code=code, retry_after=error.retry_after)


def _failure(event: Failed) -> ApiError:
    if event.reason == "deadline":
        return ApiError(408, "the answer was not finished within its time limit.", param="timeout", code="deadline")
    if event.reason == "shutdown":
        return ApiError(503, "the server is shutting down; the answer was not finished.", code="shutting_down")
    if event.reason == "memory":
        return ApiError(503, "there is no memory for a prompt of this length beside the others.", code="out_of_memory")
    return ApiError(500, "the answer failed; the server's log says why.", code="internal_error")


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns, which is cancelled when the client hangs up.

    Raises:
        ClientGoneError: it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hung_up(http))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hung_up(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass

"""Server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .answering import Answering
from .errors import ApiError

dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""A value as JSON, in as few characters as it takes."""


def event(data: str) -> bytes:
    """One event."""
    return f"data: {data}\n\n".encode()


DONE = event("[DONE]")


class EventStream(StreamingResponse):
    """A stream of the answers that `answering` works on; they are cancelled when it ends, however it ends.

    Args:
        answering: what is streamed.
        events: what is sent.
    """

    def __init__(self, answering: Answering, events: AsyncIterator[bytes]) -> None:
        super().__init__(
            _until_done(events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self.answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.answering:
            await super().__call__(scope, receive, send)


async def _until_done(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for sent in events:
            yield sent
    except ApiError as error:
        # The status has been sent; the clients raise on an event with an error.
        yield event(dump(error.body()))
        return
    yield DONE

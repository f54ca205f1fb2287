"""Server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .answering import Answering
from .errors import ApiError

DONE = "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of the answers that `answering` works on; they are cancelled when it ends, however it ends.

    Args:
        answering: what is streamed.
        events: the bodies of the events.
    """

    def __init__(self, answering: Answering, events: AsyncIterator[Mapping[str, Any]]) -> None:
        super().__init__(
            _lines(events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self.answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.answering:
            await super().__call__(scope, receive, send)


async def _lines(events: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield event_line(event)
    except ApiError as error:
        # The status has been sent; the clients raise on an event with an error.
        yield event_line(error.body())
        return
    yield DONE


def event_line(body: Mapping[str, Any]) -> str:
    """One event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"

"""What an answer has in common, whichever route asked for it: whole or streamed, its head and its counts."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from typing import Any, ClassVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from ... import __version__
from ..engine import Delta
from .answering import Answering, unless_gone
from .collected import Collected, collect
from .events import EventStream, dump, event
from .schema import GenerationFields
from .service import Service

_FINGERPRINT = f"qadapter-{__version__}"


class Answer(ABC):
    """The answer to one body.

    Args:
        service: what answers.
        body: what was asked.
        prompt_tokens: of all its prompts.
        answering: one request per prompt; choice c of prompt p is number p·n + c of the answer.
    """

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    """OpenAI's word for the body of an answer that is not streamed."""
    chunk_object: ClassVar[str]
    """The same for the events of one that is."""

    def __init__(self, service: Service, body: GenerationFields, prompt_tokens: int, answering: Answering) -> None:
        self.service, self.prompt_tokens, self.answering = service, prompt_tokens, answering
        self.choices = body.n or 1
        self._streamed = bool(body.stream)
        self._with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._head = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": _FINGERPRINT,
        }

    @abstractmethod
    def choice(self, index: int, collected: Collected) -> dict[str, Any]:
        """An entry of `choices` of an answer that is not streamed."""

    @abstractmethod
    def opening(self) -> Iterable[dict[str, Any]]:
        """Entries of `choices` that a stream begins with, an event each."""

    @abstractmethod
    def pieces(self, index: int, delta: Delta) -> Iterable[dict[str, Any]]:
        """Entries of `choices` for what a choice has grown by, an event each."""

    async def response(self, http: HttpRequest) -> Response:
        """What is sent to the client that asked."""
        if self._streamed:
            return EventStream(self.answering, self.events())
        return JSONResponse(await unless_gone(http, self.whole()))

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        collected = await collect(self.answering, self.choices)
        return {
            **self._head,
            "object": self.whole_object,
            "choices": [self.choice(index, choice) for index, choice in enumerate(collected)],
            "usage": self._usage(choice.completion_tokens for choice in collected),
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The events of an answer that is streamed."""
        # All events begin alike; writing that out once saves most of an event's time.
        head = dump({**self._head, "object": self.chunk_object})[:-1]
        for piece in self.opening():
            yield event(f'{head},"choices":[{dump(piece)}]}}')
        tokens: dict[int, int] = {}
        async for number, delta in self.answering.deltas():
            index = number * self.choices + delta.choice
            tokens[index] = delta.completion_tokens
            for piece in self.pieces(index, delta):
                yield event(f'{head},"choices":[{dump(piece)}]}}')
        if self._with_usage:
            yield event(f'{head},"choices":[],"usage":{dump(self._usage(tokens.values()))}}}')

    def _usage(self, completion_tokens: Iterable[int]) -> dict[str, int]:
        completion = sum(completion_tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from ..engine import Delta, TokenLogprob
from .answering import Answering, unless_gone
from .body import JsonRoute
from .collected import Collected, collect
from .errors import ApiError
from .events import EventStream
from .schema import ChatRequest
from .service import FINGERPRINT, Service, usage


def chat_router(service: Service) -> APIRouter:
    """The route, for one service."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/chat/completions", summary="Answer a conversation")
    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        answer = await ChatAnswer.begin(service, body)
        if body.stream:
            return EventStream(answer.answering, answer.chunks())
        return JSONResponse(await unless_gone(http, answer.whole()))

    return router


class ChatAnswer:
    """The answer to one body.

    Args:
        service: what answers.
        body: what was asked.
        prompt_tokens: of the conversation.
        answering: the request in the engine.
    """

    def __init__(self, service: Service, body: ChatRequest, prompt_tokens: int, answering: Answering) -> None:
        self.service, self.body, self.prompt_tokens, self.answering = service, body, prompt_tokens, answering
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": FINGERPRINT,
        }

    @classmethod
    async def begin(cls, service: Service, body: ChatRequest) -> ChatAnswer:
        """Check the body and hand the request to the engine.

        Raises:
            ApiError: what the body has wrong, or an engine that takes no request.
        """
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise ApiError(
                400, "max_tokens and max_completion_tokens are the same; give one of them.", param="max_tokens"
            )
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")
        service.policy(body)  # before the work of tokenizing
        prompt_ids = await service.encode(body.messages, "messages")
        limit = service.limits.max_tokens
        max_tokens = service.room(prompt_ids, body.max_tokens or body.max_completion_tokens, limit, "messages")
        top = (body.top_logprobs or 0) if body.logprobs else None
        request = service.request(body, prompt_ids, max_tokens, top)
        return cls(service, body, len(prompt_ids), Answering(service.engine, [request]))

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        collected = await collect(self.answering, self.body.n or 1)
        completion_tokens = sum(choice.completion_tokens for choice in collected)
        return {
            **self.head,
            "object": "chat.completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(collected)],
            "usage": usage(self.prompt_tokens, completion_tokens),
        }

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The events of an answer that is streamed."""
        tokens = [0] * (self.body.n or 1)
        for index in range(len(tokens)):
            yield self._chunk(index, {"role": "assistant", "content": ""}, None)
        async for _, delta in self.answering.deltas():
            tokens[delta.choice] = delta.completion_tokens
            if delta.text or delta.tokens:
                yield self._chunk(delta.choice, {"content": delta.text}, delta)
            if delta.finish is not None:
                yield self._chunk(delta.choice, {}, None, delta.finish)
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            total = usage(self.prompt_tokens, sum(tokens))
            yield {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": total}

    def _choice(self, index: int, choice: Collected) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish,
        }

    def _chunk(
        self, index: int, message: dict[str, str], delta: Delta | None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": message,
            "logprobs": None if delta is None else self._logprobs(delta.tokens),
            "finish_reason": finish,
        }
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return {"content": [self.service.texts.chat_logprob(report) for report in tokens], "refusal": None}

"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from ..engine import Delta, TokenLogprob
from .answer import Answer
from .answering import Answering
from .body import JsonRoute
from .collected import Collected
from .errors import ApiError
from .schema import ChatRequest
from .service import Service


def chat_router(service: Service) -> APIRouter:
    """The route, for one service."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/chat/completions", summary="Answer a conversation")
    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        return await (await begin(service, body)).response(http)

    return router


async def begin(service: Service, body: ChatRequest) -> Answer:
    """Check the body and hand the request to the engine.

    Raises:
        ApiError: what the body has wrong, or an engine that takes no request.
    """
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are the same; give one of them.", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")
    service.policy(body)  # before the work of tokenizing
    prompt_ids = await service.encode(body.messages, "messages")
    limit = service.limits.max_tokens
    asked_as = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked = body.max_tokens or body.max_completion_tokens
    max_tokens = service.room(prompt_ids, asked, limit, "messages", asked_as=asked_as)
    top = (body.top_logprobs or 0) if body.logprobs else None
    request = service.request(body, prompt_ids, max_tokens, top)
    return ChatAnswer(service, body, len(prompt_ids), Answering(service, [request]))


class ChatAnswer(Answer):
    """The answer to a conversation."""

    id_prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, body: ChatRequest, prompt_tokens: int, answering: Answering) -> None:
        super().__init__(service, body, prompt_tokens, answering)
        self._with_logprobs = bool(body.logprobs)

    def choice(self, index: int, collected: Collected) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": collected.text, "refusal": None},
            "logprobs": self._logprobs(collected.tokens),
            "finish_reason": collected.finish,
        }

    def opening(self) -> Iterable[dict[str, Any]]:
        return [_piece(index, {"role": "assistant", "content": ""}) for index in range(self.choices)]

    def pieces(self, index: int, delta: Delta) -> Iterable[dict[str, Any]]:
        if delta.text or delta.tokens:
            yield _piece(index, {"content": delta.text}, self._logprobs(delta.tokens))
        if delta.finish is not None:
            yield _piece(index, {}, finish=delta.finish)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        return {"content": [self.service.texts.chat_logprob(report) for report in tokens], "refusal": None}


def _piece(
    index: int, message: dict[str, str], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": message, "logprobs": logprobs, "finish_reason": finish}

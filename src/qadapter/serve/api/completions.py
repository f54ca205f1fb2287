"""POST /v1/completions: prompts are continued as they are, without a chat template."""

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
from .schema import CompletionRequest
from .service import Service

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


def completions_router(service: Service) -> APIRouter:
    """The route, for one service."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/completions", summary="Continue texts")
    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        return await (await begin(service, body)).response(http)

    return router


async def begin(service: Service, body: CompletionRequest) -> Answer:
    """Check the body and hand its prompts to the engine, all or none.

    Raises:
        ApiError: what the body has wrong, or an engine that takes no request.
    """
    service.policy(body)  # before the work of tokenizing
    prompts = await _prompts(service, body)
    rooms = [service.room(ids, body.max_tokens, _DEFAULT_MAX_TOKENS, "prompt") for ids in prompts]
    requests = [
        service.request(body, ids, room, body.logprobs, continues=True)
        for ids, room in zip(prompts, rooms, strict=True)
    ]
    return CompletionAnswer(service, body, sum(map(len, prompts)), Answering(service, requests))


class CompletionAnswer(Answer):
    """The answer to one or several prompts."""

    id_prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, service: Service, body: CompletionRequest, prompt_tokens: int, answering: Answering) -> None:
        super().__init__(service, body, prompt_tokens, answering)
        self._with_logprobs = body.logprobs is not None

    def choice(self, index: int, collected: Collected) -> dict[str, Any]:
        return self._piece(index, collected)

    def opening(self) -> Iterable[dict[str, Any]]:
        return ()

    def pieces(self, index: int, delta: Delta) -> Iterable[dict[str, Any]]:
        if delta.text or delta.tokens or delta.finish is not None:
            yield self._piece(index, delta)

    def _piece(self, index: int, grown: Delta | Collected) -> dict[str, Any]:
        logprobs = self._logprobs(grown.tokens) if self._with_logprobs else None
        return {"index": index, "text": grown.text, "logprobs": logprobs, "finish_reason": grown.finish}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            "tokens": [self.service.texts.name(report.token) for report in tokens],
            "token_logprobs": [report.logprob for report in tokens],
            "top_logprobs": [self.service.texts.top_logprobs(report) for report in tokens],
            "text_offset": [report.start for report in tokens],
        }


async def _prompts(service: Service, body: CompletionRequest) -> list[list[int]]:
    """The tokens of each prompt; prompts may come as tokens.

    Raises:
        ApiError: 400 for more prompts than the queue holds, before any is tokenized, or for a token that is none.
    """
    given = body.prompt
    if isinstance(given, str):
        return [await service.encode(given, "prompt")]
    if isinstance(given[0], int):
        return [_checked_ids(service, given)]
    most = service.engine.limits.max_queue
    if len(given) > most:
        raise ApiError(400, f"prompt: at most {most} prompts here, got {len(given)}", param="prompt")
    return [
        await service.encode(prompt, "prompt") if isinstance(prompt, str) else _checked_ids(service, prompt)
        for prompt in given
    ]


def _checked_ids(service: Service, ids: Any) -> list[int]:
    known = len(service.served.model.head.weight)
    if max(ids) >= known:
        raise ApiError(400, f"prompt: tokens are numbered below {known}, got {max(ids)}", param="prompt")
    return ids

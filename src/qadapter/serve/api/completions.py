"""POST /v1/completions: prompts are continued as they are, without a chat template."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from ..engine import TokenLogprob
from .answering import Answering, unless_gone
from .body import JsonRoute
from .collected import collect
from .errors import ApiError
from .events import EventStream
from .schema import CompletionRequest
from .service import FINGERPRINT, Service, usage

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


def completions_router(service: Service) -> APIRouter:
    """The route, for one service."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/completions", summary="Continue texts")
    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        answer = await CompletionAnswer.begin(service, body)
        if body.stream:
            return EventStream(answer.answering, answer.chunks())
        return JSONResponse(await unless_gone(http, answer.whole()))

    return router


class CompletionAnswer:
    """The answer to one body, which may hold several prompts.

    Args:
        service: what answers.
        body: what was asked.
        prompt_tokens: of all prompts.
        answering: one request per prompt.
    """

    def __init__(self, service: Service, body: CompletionRequest, prompt_tokens: int, answering: Answering) -> None:
        self.service, self.body, self.prompt_tokens, self.answering = service, body, prompt_tokens, answering
        self.choices = body.n or 1
        self.head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": FINGERPRINT,
        }

    @classmethod
    async def begin(cls, service: Service, body: CompletionRequest) -> CompletionAnswer:
        """Check the body and hand its prompts to the engine, all or none.

        Raises:
            ApiError: what the body has wrong, or an engine that takes no request.
        """
        service.policy(body)  # before the work of tokenizing
        prompts = await _prompts(service, body)
        if len(prompts) > service.engine.limits.max_queue:
            most = service.engine.limits.max_queue
            raise ApiError(400, f"prompt: at most {most} prompts here, got {len(prompts)}", param="prompt")
        requests = [
            service.request(body, ids, service.room(ids, body.max_tokens, _DEFAULT_MAX_TOKENS, "prompt"), body.logprobs)
            for ids in prompts
        ]
        return cls(service, body, sum(map(len, prompts)), Answering(service.engine, requests))

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        collected = await collect(self.answering, self.choices)
        choices = [
            self._choice(index, choice.text, choice.finish, choice.tokens) for index, choice in enumerate(collected)
        ]
        total = usage(self.prompt_tokens, sum(choice.completion_tokens for choice in collected))
        return {**self.head, "choices": choices, "usage": total}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The events of an answer that is streamed."""
        tokens: dict[int, int] = {}
        offsets: dict[int, int] = {}
        async for number, delta in self.answering.deltas():
            index = number * self.choices + delta.choice
            tokens[index] = delta.completion_tokens
            if delta.text or delta.tokens or delta.finish is not None:
                offset = offsets.get(index, 0)
                offsets[index] = offset + sum(len(self.service.texts(report.token)) for report in delta.tokens)
                choice = self._choice(index, delta.text, delta.finish, delta.tokens, offset)
                yield {**self.head, "choices": [choice]}
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            yield {**self.head, "choices": [], "usage": usage(self.prompt_tokens, sum(tokens.values()))}

    def _choice(
        self, index: int, text: str, finish: str | None, tokens: Sequence[TokenLogprob], offset: int = 0
    ) -> dict[str, Any]:
        logprobs = None if self.body.logprobs is None else self._logprobs(tokens, offset)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
        texts = [self.service.texts(report.token) for report in tokens]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [report.logprob for report in tokens],
            "top_logprobs": [
                {self.service.texts(token): logprob for token, logprob in report.top} for report in tokens
            ],
            "text_offset": offsets,
        }


async def _prompts(service: Service, body: CompletionRequest) -> list[list[int]]:
    """The tokens of each prompt; prompts may come as tokens."""
    given = body.prompt
    if isinstance(given, str):
        return [await service.encode(given, "prompt")]
    if isinstance(given[0], int):
        return [_checked_ids(service, given)]
    return [
        await service.encode(prompt, "prompt") if isinstance(prompt, str) else _checked_ids(service, prompt)
        for prompt in given
    ]


def _checked_ids(service: Service, ids: Any) -> list[int]:
    known = len(service.served.model.head.weight)
    if max(ids) >= known:
        raise ApiError(400, f"prompt: tokens are numbered below {known}, got {max(ids)}", param="prompt")
    return ids

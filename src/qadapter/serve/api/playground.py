"""What the page at / needs beside OpenAI's API: the view of each token, and the report of the training."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from ...core import ResidualQ
from ...errors import ArtifactError
from ...model.artifact_folder import read_config
from ...model.model_card import public_name
from ...train.callbacks import METRICS_FILE, metrics_lines
from ..engine import FinishReason, RefusedError
from ..engine.token_view import TokenView, Viewing
from .answering import Answering, refusal, unless_gone
from .body import JsonRoute
from .collected import collect
from .errors import ApiError
from .schema import GenerationFields, PolicyFields, TokenViewRequest
from .service import Service
from .turns import Turns

_DEFAULT_MAX_TOKENS = 256
# Evaluations are written where the user says; these names in the artifact's folder are looked for.
_EVALUATIONS = "eval*.json"


def playground_router(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(route_class=JsonRoute)
    turns = Turns(service.engine.limits.max_queue)

    @router.post("/v1/playground/tokens", summary="Both policies' view of each token of an answer")
    async def tokens(body: TokenViewRequest, http: HttpRequest) -> dict[str, Any]:
        return await unless_gone(http, view_tokens(service, turns, body))

    @router.get("/v1/playground/report", summary="What the training and its evaluations left in an adapter's folder")
    def report(model: str) -> dict[str, Any]:
        return {"model": model, **training_report(_adapter(service, model).directory)}

    return router


async def view_tokens(service: Service, turns: Turns, body: TokenViewRequest) -> dict[str, Any]:
    """The answer of POST /v1/playground/tokens.

    Args:
        service: what answers.
        turns: of all views.
        body: what was asked.

    Raises:
        ApiError: what the body has wrong, 429 for too many views at a time, 408 for one that was not made within the
            time of a request, or an engine that takes no request.
    """
    try:
        with turns.place(), service.engine.engaged():
            async with asyncio.timeout(service.limits.timeout):
                return await _view(service, turns, body)
    except RefusedError as error:
        service.engine.metrics.refused.add(1)
        raise refusal(error) from error
    except TimeoutError:
        seconds = service.limits.timeout
        raise ApiError(408, f"the view was not made within {seconds:g} seconds.", code="deadline") from None


async def _view(service: Service, turns: Turns, body: TokenViewRequest) -> dict[str, Any]:
    served = _adapter(service, body.model)
    policy = service.policy(body)
    prompt_ids = await service.encode(body.messages, "messages")
    ids, finish = await _answer(service, body, prompt_ids)
    engine = service.engine
    viewing = Viewing(engine.model, engine.layers, prompt_ids, ids, served.adapter, policy.mixture, served.q, body.top)
    held = engine.metrics.view_kv_bytes
    async with turns.turn:
        try:
            # Chunk by chunk, so that others decode in between.
            while ids and not await asyncio.wrap_future(
                engine.call(lambda: viewing.advance(engine.limits.prefill_chunk))
            ):
                held.set(viewing.cache.bytes)
        finally:
            held.set(0)
    return {
        "model": body.model,
        "mixture": policy.mixture._asdict(),
        "prompt_tokens": len(prompt_ids),
        "finish_reason": finish,
        "tokens": [_entry(service, view) for view in viewing.views],
    }


async def _answer(
    service: Service, body: TokenViewRequest, prompt_ids: list[int]
) -> tuple[list[int], FinishReason | None]:
    """The tokens of the answer to look at, and how it ended where it is the policy's own."""
    if body.answer is not None:
        ids = await asyncio.to_thread(lambda: service.tokenizer(body.answer, add_special_tokens=False)["input_ids"])
        if len(prompt_ids) + len(ids) > service.limits.max_context:
            raise ApiError(
                400,
                f"answer: {len(ids)} tokens behind a prompt of {len(prompt_ids)} are more than the "
                f"{service.limits.max_context} that prompt and answer together may have.",
                param="answer",
                code="context_length_exceeded",
            )
        return ids, None
    max_tokens = service.room(prompt_ids, body.max_tokens, _DEFAULT_MAX_TOKENS, "messages")
    fields = GenerationFields(**body.model_dump(include=set(PolicyFields.model_fields)), temperature=0.0)
    request = service.request(fields, prompt_ids, max_tokens, top_logprobs=0)
    (answer,) = await collect(Answering(service, [request]), choices=1)
    return [report.token for report in answer.tokens], answer.finish


class _Adapter(NamedTuple):
    adapter: str
    q: ResidualQ
    directory: Path


def _adapter(service: Service, name: str) -> _Adapter:
    """What is served under a name, which must be an adapter's."""
    served = service.served_policy(name)
    if served.adapter is None or served.constants is None or served.directory is None:
        raise ApiError(400, f"model {name!r} is the base: it has no adapter to look at.", param="model")
    return _Adapter(served.adapter, served.constants.residual_q, served.directory)


def _entry(service: Service, view: TokenView) -> dict[str, Any]:
    """A token as the page shows it."""

    def named(likeliest: list[tuple[int, float]]) -> list[dict[str, Any]]:
        return [{"text": service.texts(token), "logp": logp} for token, logp in likeliest]

    return {
        "text": service.texts(view.token),
        "logp": view.policy_logp,
        "base_logp": view.base_logp,
        "log_ratio": view.policy_logp - view.base_logp,
        "q": view.residual_q,
        "top": named(view.top),
        "base_top": named(view.base_top),
    }


def training_report(directory: Path) -> dict[str, Any]:
    """What lies in an artifact's folder.

    Returns:
        `config`: of the artifact, its base by the name alone; `metrics`: the lines of the training log;
        `evaluations`: by file name. Empty where a file is not there. A number that JSON does not have (a loss that was
        NaN) is null.

    Raises:
        ApiError: 500 where a file is damaged or cannot be read.
    """
    log = directory / METRICS_FILE
    try:
        config = read_config(directory)
        base = {**config["base"], "name_or_path": public_name(config["base"]["name_or_path"])}
        lines = metrics_lines(log) if log.is_file() else []
        return {
            "config": {**config, "base": base},
            "metrics": [_loads(line) for line in lines],
            "evaluations": {
                path.name: _loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob(_EVALUATIONS))
            },
        }
    except (ValueError, ArtifactError) as error:
        raise ApiError(500, f"a file of the adapter's report is damaged: {error}", code="damaged_report") from error
    except OSError as error:
        # Of its path the name alone: where the folder lies is nobody's business.
        what = f"{Path(error.filename or directory).name} of the adapter's report cannot be read: {error.strerror}"
        raise ApiError(500, what, code="unreadable_report") from error


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=lambda _: None)

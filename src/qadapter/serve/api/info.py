"""GET /v1/models, /health and /metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from ..adapters import ServedPolicy
from ..metrics import Metric, render
from .service import Service


def info_router(service: Service, http_metrics: list[Metric]) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter()

    @router.get("/v1/models", summary="The adapters and the base")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service, policy) for policy in service.served.policies.values()]}

    @router.get("/v1/models/{name:path}", summary="One of them")
    async def model(name: str) -> dict[str, Any]:
        return _model(service, service.served_policy(name))

    @router.head("/health", include_in_schema=False)
    @router.get("/health", summary="Whether requests are taken: 200, or 503 while shutting down")
    async def health() -> JSONResponse:
        engine = service.engine
        status = "ok" if engine.alive and not engine.scheduler.closed else "shutting down"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @router.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        text = render([*service.engine.metrics.all(), *http_metrics])
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    return router


def _model(service: Service, policy: ServedPolicy) -> dict[str, Any]:
    """An entry of the list: OpenAI's fields, and the constants of an adapter."""
    entry: dict[str, Any] = {"id": policy.name, "object": "model", "created": service.started, "owned_by": "qadapter"}
    if policy.constants is not None:
        constants = policy.constants
        entry["qadapter"] = {
            "parametrization": constants.parametrization,
            "alpha_0": constants.alpha_0,
            "alpha_tilde": constants.alpha_tilde,
        }
    return entry

"""The HTTP application: routes, their order, and the engine's life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ... import __version__
from ..metrics import Counter
from .chat import chat_router
from .completions import completions_router
from .errors import install_error_handlers
from .gate import Gate, GateRules
from .handover import Handover
from .info import info_router
from .page import install_page
from .playground import playground_router
from .service import Service


def create_app(service: Service, rules: GateRules | None = None, cors_origins: Sequence[str] = ()) -> FastAPI:
    """The application. It starts the engine, and closes it at the end.

    Args:
        service: what answers; its engine is not started yet.
        rules: who is let in; the size of bodies is taken from the service's limits.
        cors_origins: origins of other pages that may read answers; none by default.
    """

    @asynccontextmanager
    async def engine_runs(_: FastAPI) -> AsyncIterator[None]:
        service.handover = Handover(asyncio.get_running_loop())
        service.engine.start()
        yield
        service.engine.close()

    app = FastAPI(
        title="qadapter",
        version=__version__,
        lifespan=engine_runs,
        docs_url=None,  # that page loads scripts from elsewhere
        redoc_url=None,
        # Else the schema would promise FastAPI's own 422.
        responses={"4XX": {"description": "What was wrong, in the format of OpenAI's errors"}},
    )
    counted = Counter("qadapter_http_responses_total", "Answers by status.", ("status",))
    for router in (
        chat_router(service),
        completions_router(service),
        playground_router(service),
        info_router(service, [counted]),
    ):
        app.include_router(router)

    install_page(app)
    install_error_handlers(app)
    # The last one added is passed first: a browser's question whether it may ask carries no key.
    app.add_middleware(Gate, rules=replace(rules or GateRules(), max_body=service.limits.max_body), counted=counted)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            # OpenAI's client sends headers of its own; no cookie is ever honoured, so none of them can do harm.
            allow_headers=["*"],
        )
    return app

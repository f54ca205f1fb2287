"""The page at /: files without a build step, which may load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parents[1] / "static"

_HEADERS = {
    # Whatever a model writes, the page runs only its own scripts and talks only to this server.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Browsers ask whether the file has changed: after an upgrade, old scripts would meet a new API.
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """The files, with the headers that keep the page to itself."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def install_page(app: FastAPI) -> None:
    """Serve the page at / and its files under /static."""
    files = PageFiles(directory=STATIC)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.mount("/static", files, name="static")

"""Errors in the format of OpenAI's API: what was wrong, which field, which rule."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


class ApiError(Exception):
    """Ends a request with a status and a body that OpenAI's clients understand.

    Args:
        status: of HTTP.
        message: what was wrong, what was received, what to do.
        param: the field.
        code: a word for programs.
        retry_after: seconds, for the header Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message, param = (_encodable(text) for text in (str(self).replace("\nhint: ", " "), self.param))
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What is sent beside it."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def response(self) -> JSONResponse:
        """The error as an answer."""
        return JSONResponse(self.body(), self.status, self.headers())


class ClientGoneError(Exception):
    """Nobody is there to read the answer."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, with a space before it; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def install_error_handlers(app: FastAPI) -> None:
    """All errors of the app in one format."""

    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(Exception)
    async def of_the_server(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "the server failed; its log says why.", code="internal_error").response()

    @app.exception_handler(ClientGoneError)
    async def of_nobody(_: Request, error: ClientGoneError) -> Response:
        return Response(status_code=499)  # what proxies log for it; it is not sent to anybody

    @app.exception_handler(RequestValidationError)
    async def of_the_schema(_: Request, error: RequestValidationError) -> JSONResponse:
        return _from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"{request.method} {request.url.path}: {message}"
        response = ApiError(error.status_code, message).response()
        response.headers.update(error.headers or {})
        return response


def _from_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong, in one sentence."""
    first = error.errors()[0]
    kind, place = first["type"], [part for part in first["loc"] if part not in ("body", "query")]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}", code=kind)
    param = first.get("ctx", {}).get("param") or ".".join(str(part) for part in place) or None
    if param is None:
        what = "is missing" if kind == "missing" else "must be a JSON object, sent as application/json"
        return ApiError(400, f"the body {what}.", code=kind)
    message = first["msg"][:1].lower() + first["msg"][1:]
    if kind == "extra_forbidden":
        return ApiError(400, f"unknown field {param!r}{first.get('ctx', {}).get('near', '')}", param=param, code=kind)
    received = "" if kind == "missing" else f", got {_short(first.get('input'))}"
    return ApiError(400, f"{param}: {message}{received}", param=param, code=kind)


def _encodable(text: str | None) -> str | None:
    """Half of a surrogate pair, which JSON can carry and UTF-8 cannot, as a question mark."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _short(value: object) -> str:
    text = json.dumps(value, default=lambda other: type(other).__name__)
    return text if len(text) <= 60 else f"{text[:57]}..."

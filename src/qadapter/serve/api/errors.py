"""Errors in the format of OpenAI's API: what was wrong, which field, which rule."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
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
        message = str(self).replace("\nhint: ", " ")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What is sent beside it."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.code == "deadline":
            headers["x-should-retry"] = "false"  # OpenAI's clients would ask twice more, and wait as long each time
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
    """All errors of the app in one format; what nobody foresaw is the gate's."""

    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

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
    """One thing that is wrong, in one sentence."""
    errors = error.errors()
    # Where a field may be of several types there is an error per type; one that says more than "not this type" is of
    # the type that was meant.
    first = next((entry for entry in errors if not entry["type"].endswith("_type")), errors[0])
    kind, context, param = first["type"], first.get("ctx", {}), _param(first)
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {context.get('error', first['msg'])}", code=kind)
    if param is None:
        what = "is missing" if kind == "missing" else "must be a JSON object, sent as application/json"
        return ApiError(400, f"the body {what}.", code=kind)
    if kind == "extra_forbidden":
        return ApiError(400, f"unknown field {param!r}{context.get('near', '')}", param=param, code=kind)
    same = [entry for entry in errors if _param(entry) == param]
    rules = dict.fromkeys(_rule(entry) for entry in (same if kind.endswith("_type") else [first]))
    received = "" if kind == "missing" else f", got {_short(context.get('got', first.get('input')))}"
    return ApiError(400, f"{param}: {' or '.join(rules)}{received}", param=param, code=kind)


def _param(entry: Mapping[str, Any]) -> str | None:
    """The field of an error of pydantic, without the names of the types that were tried."""
    place = [str(part) for part in entry["loc"] if part not in ("body", "query", "str", "constrained-str")]
    of_object = entry.get("ctx", {}).get("param")  # the error is of the object that holds the field
    return ".".join([*(part for part in place if "[" not in part), *([of_object] if of_object else [])]) or None


def _rule(entry: Mapping[str, Any]) -> str:
    message: str = entry["msg"]
    return message[:1].lower() + message[1:]


def _short(value: object) -> str:
    text = json.dumps(value, default=lambda other: type(other).__name__)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Bodies as JSON whose texts are texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute


class JsonRequest(Request):
    """A request whose body may not hold half of a surrogate pair: JSON can write it, and nothing behind can read it."""

    async def json(self) -> Any:
        body = await super().json()
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise HTTPException(400, "the body holds half of a surrogate pair, which is no character.") from None
        return body


class JsonRoute(APIRoute):
    """A route that reads its body with `JsonRequest`."""

    def get_route_handler(self) -> Callable:
        """The handler of one request."""
        handle = super().get_route_handler()

        async def with_checked_body(request: Request) -> Any:
            return await handle(JsonRequest(request.scope, request.receive))

        return with_checked_body

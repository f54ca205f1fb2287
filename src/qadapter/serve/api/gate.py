"""What every request passes before it reaches a route: host, key, size of the body; and what is counted of it.

A fault of a route ends here too. Starlette's own handler for those lies outside of everything: what it sends would not
be counted, and pages of other origins could not read it.

Plain ASGI: it sees bodies before they are parsed, and takes nothing from the routes' view of a client that hangs up.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..metrics import Counter
from .errors import ApiError

logger = logging.getLogger(__name__)

# What a browser may fetch before it knows the key, and what says nothing about anybody.
_OPEN_PATHS = ("/health", "/", "/static/")
# Of what is too large, so many times the largest body is read.
_BODIES_THROWN_AWAY = 8


@dataclass(frozen=True)
class GateRules:
    """Who is let in."""

    api_key: str | None = None
    """What clients send as `Authorization: Bearer KEY`; None lets everybody in."""
    hosts: Collection[str] | None = None
    """Names in the header Host that are answered; None: all. On loopback without a key, a page of somewhere else could
    otherwise point its own name at this machine and read the answers."""
    max_body: int = 1 << 20
    """Bytes."""
    body_seconds: float = 30.0
    """Within which a body must arrive."""


class Gate:
    """Refuses what may not enter; hands on the rest with the body in one piece, and answers 500 where that fails.

    Args:
        app: what is behind it.
        rules: who is let in.
        counted: requests by status.
    """

    def __init__(self, app: ASGIApp, rules: GateRules, counted: Counter) -> None:
        self.app, self.rules, self.counted = app, rules, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def counting(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.counted.add(1, str(message["status"]))
            await send(message)

        try:
            await self._pass(scope, receive, counting)
        except Exception:
            if begun:
                raise  # the server logs it, and breaks the connection: the client must not take the rest for all
            logger.exception("%s %s failed", scope["method"], scope["path"])
            failed = ApiError(500, "the server failed; its log says why.", code="internal_error")
            await failed.response()(scope, receive, counting)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope)
        try:
            if refused is not None and any(name == b"expect" for name, _ in scope["headers"]):
                raise refused  # its client waits for leave before it sends the body
            body = await asyncio.wait_for(self._read(receive), self.rules.body_seconds)
            if refused is not None:
                raise refused
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except TimeoutError:
            late = ApiError(
                408, f"the body did not arrive within {self.rules.body_seconds:g} seconds.", code="slow_body"
            )
            await (refused or late).response()(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _first(body, receive), send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why the headers do not let a request in; None where they do."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.rules.hosts is not None and name not in self.rules.hosts:
            return ApiError(
                403, f"this server answers to {', '.join(sorted(self.rules.hosts))}, not to {host!r}.", code="host"
            )
        path = scope["path"]
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_PATHS[-1])
        if self.rules.api_key is not None and not is_open:
            scheme, _, sent = headers.get(b"authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(sent.encode(), self.rules.api_key.encode()):
                return ApiError(401, "send the server's key as Authorization: Bearer KEY.", code="invalid_api_key")
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self.rules.max_body:
            return self._too_large()
        return None

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None where the client hung up meanwhile.

        What is too large is read to its end and thrown away: a connection that is closed while its client still sends
        is reset, and the reset can overtake the answer. What is far too large is cut off all the same.
        """
        body, size = bytearray(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self.rules.max_body:
                body += piece
            if not message.get("more_body", False) or size > _BODIES_THROWN_AWAY * self.rules.max_body:
                break
        if size > self.rules.max_body:
            raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a body may have {self.rules.max_body} bytes; this one has more.", code="body_too_large")


def _first(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what comes after it."""
    given = False

    async def replaying() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying

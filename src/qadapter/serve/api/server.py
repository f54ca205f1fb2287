"""The server: uvicorn, with an end that finishes what it has begun."""

from __future__ import annotations

import logging
import os
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ...errors import ConfigError
from ..engine import Engine

logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet: connections are refused, and nobody takes it for a server.

    Args:
        host: address or name.
        port: 0 takes a free one.

    Raises:
        ConfigError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        if os.name == "posix":  # else the connections of a server that has just ended would keep its address
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # as in `socket.create_server`
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    return bound


def listen(bound: socket.socket) -> None:
    """Take connections, which wait for the server to start.

    Raises:
        ConfigError: another process, which bound the same address meanwhile, listens there.
    """
    try:
        bound.listen()
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    return ConfigError(f"cannot listen on {host}, port {port}: {error}", hint="choose another --port")


class GracefulServer(uvicorn.Server):
    """On the first SIGTERM or Ctrl-C it takes no new requests (503) and goes on until those that it has are answered.

    Args:
        app: what it serves.
        engine: whose requests are waited for.
        grace: most seconds of waiting; then, or at a second signal, the rest fails with 503.
    """

    def __init__(self, app: FastAPI, engine: Engine, grace: float) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        self.engine, self.grace = engine, grace
        self._give_up_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self.begin_shutdown()

    def begin_shutdown(self) -> None:
        """What the first signal does; the second time it ends at once."""
        if self._give_up_at is None:
            logger.info("shutting down: no new requests; waiting up to %g s for those that run", self.grace)
            self.engine.drain()
            self._give_up_at = time.monotonic() + self.grace
        else:
            self._give_up_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop listening."""
        if self._give_up_at is not None and (self.engine.idle or time.monotonic() >= self._give_up_at):
            self.engine.close()
            return True
        return await super().on_tick(counter)

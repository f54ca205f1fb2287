"""One HTTP POST of JSON that follows no redirect and does not wait without end."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple

# A chat completion has a few kilobytes; what is larger is no answer to our question.
_MOST_BYTES = 2**24


class Response(NamedTuple):
    """What a server answered."""

    status: int
    headers: Message
    text: str


class NoResponseError(Exception):
    """The server could not be reached, or did not answer in full in time; the text says which."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, and the key at whatever host the server names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def post_json(url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float) -> Response:
    """Send a request and read the whole response, whatever its status.

    Args:
        url: http or https; redirects are not followed.
        body: sent as JSON.
        headers: beside the content type.
        timeout: seconds without any byte, and seconds after which no further byte is waited for.

    Raises:
        NoResponseError: no connection, a broken one, or a time-out.
    """
    deadline = time.monotonic() + timeout
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}, method="POST"
    )
    # Errors are raised without their causes: their texts can hold what the server wrote.
    try:
        try:
            response = _opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return Response(response.status, response.headers, _read(response, deadline))
    except TimeoutError:
        raise NoResponseError(f"no answer within {timeout:g} s") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise NoResponseError(f"no connection within {timeout:g} s") from None
        raise NoResponseError(f"no connection: {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise NoResponseError(f"the connection broke: {type(error).__name__}: {error}") from None


def _read(response: HTTPResponse | urllib.error.HTTPError, deadline: float) -> str:
    """The body. The socket's own limit is per packet: a server that drips bytes would never reach it."""
    parts, size = [], 0
    while part := response.read1(2**16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > _MOST_BYTES:
            raise HTTPException(f"a response of more than {_MOST_BYTES} bytes")
    return b"".join(parts).decode("utf-8", errors="replace")

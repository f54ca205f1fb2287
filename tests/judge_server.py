"""A chat completions server in a thread, whose replies a test decides."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Scripted = tuple[int, dict[str, str], str] | None
"""Status, headers and body; None hangs up without a word."""


@dataclass
class JudgeServer:
    """What a test sees of it."""

    url: str = ""
    respond: Callable[[dict[str, Any]], Scripted] = lambda body: completion("model-a")
    """From a request's body to the response; may be exchanged at any time."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """All requests so far."""
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    drip: float = 0
    """Seconds between two bytes of a body."""


def completion(content: str | None, usage: bool = True, **message: Any) -> Scripted:
    """A well-formed completion, of 100 prompt tokens and 2 completion tokens."""
    body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": content, **message}}]}
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    return 200, {}, json.dumps(body)


def error(status: int, message: str = "no", **headers: str) -> Scripted:
    """An error as OpenAI's servers write it."""
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        json.dumps({"error": {"message": message, "type": "error"}}),
    )


def outputs(body: dict[str, Any]) -> tuple[str, str]:
    """The texts shown as model-a and model-b in a request."""
    question = body["messages"][1]["content"]
    found = [json.loads(line) for line in re.findall(r'^\{"model": .*$', question, re.MULTILINE)]
    assert [entry["model"] for entry in found] == ["model-a", "model-b"]
    return found[0]["output"], found[1]["output"]


@contextmanager
def serving() -> Iterator[JudgeServer]:
    """Serve on a free local port until the end of the block."""
    state, lock = JudgeServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.bodies.append(body)
                state.headers.append(dict(self.headers.items()))
                state.paths.append(self.path)
            if (scripted := state.respond(body)) is None:
                return
            status, headers, text = scripted
            content = text.encode()
            # The other side may have given up on us, or been killed.
            with suppress(ConnectionError):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [content[i : i + 1] for i in range(len(content))] if state.drip else [content]:
                    self.wfile.write(part)
                    time.sleep(state.drip)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

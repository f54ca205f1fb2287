"""Clients that behave as clients do: they ask, hang up, send nonsense and too much. Used by a test and a benchmark."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 60.0


class Soak:
    """Asks a server on loopback.

    Args:
        url: of the server.
        models: names to ask for.
        max_body: bytes that it takes.
        seed: of what is asked, and when clients leave.
    """

    def __init__(self, url: str, models: Sequence[str], max_body: int, seed: int) -> None:
        self.url, self.models, self.max_body = url, list(models), max_body
        self.random = random.Random(seed)

    def run(self, requests: int, at_once: int) -> dict[str, Any]:
        """Ask.

        Returns:
            How many requests were `answered`, `refused` (a 4xx for those that deserve one, or 429), `cancelled` by us,
            and `stuck` without an answer; `unexpected` are answers that a request should not have got.
        """
        return asyncio.run(self._run(requests, at_once))

    async def _run(self, requests: int, at_once: int) -> dict[str, Any]:
        room = asyncio.Semaphore(at_once)
        counts: Counter[str] = Counter(answered=0, refused=0, cancelled=0, stuck=0)
        unexpected: list[str] = []

        async def one(kind: str, path: str, body: bytes, leaves_after: float | None) -> None:
            async with room:
                try:
                    status, text = await asyncio.wait_for(self._ask(path, body, leaves_after), _SECONDS)
                except TimeoutError:
                    counts["stuck"] += 1
                    return
            if status is None:
                counts["cancelled"] += 1
            elif status == 200 and kind == "good" and _is_whole(text):
                counts["answered"] += 1
            elif status == 429 or (status in (400, 404, 413) and kind == "bad"):
                counts["refused"] += 1
            else:
                unexpected.append(f"{kind} {path} {body[:200]!r} -> {status} {text[:300]!r}")

        await asyncio.gather(*[one(*self._request()) for _ in range(requests)])
        return {**counts, "unexpected": unexpected}

    def _request(self) -> tuple[str, str, bytes, float | None]:
        """Kind, path, body, and the seconds after which the client leaves (None: it stays)."""
        rng = self.random
        model = rng.choice(self.models)
        chat = rng.random() < 0.6
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": rng.randrange(1, 40),
            "temperature": rng.choice([0, 1]),
            "stream": rng.random() < 0.5,
            "n": rng.choice([1, 1, 1, 2, 3]),
        }
        text = "".join(rng.choice("abc é🙂") for _ in range(rng.randrange(1, 30)))
        body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        if model != self.models[-1]:
            body["strength"] = rng.choice([0, 0.5, 1, 2])
        path = "/v1/chat/completions" if chat else "/v1/completions"
        draw = rng.random()
        if draw < 0.55:
            return "good", path, json.dumps(body).encode(), None
        if draw < 0.75:
            return "good", path, json.dumps({**body, "max_tokens": 60}).encode(), rng.random() * 0.15
        bad: list[bytes] = [
            b"{",
            b"[" * 3000,
            b"\xff" * 20,
            b"x" * (self.max_body + 1),
            json.dumps({**body, "strength": -1}).encode(),
            json.dumps({**body, "model": "nobody"}).encode(),
            json.dumps({**body, "max_tokens": 10**9}).encode(),
            json.dumps({**body, "nonsense": 1}).encode(),
            json.dumps({**body, "messages": [{"role": "king", "content": "x"}], "prompt": 3}).encode(),
        ]
        return "bad", path, rng.choice(bad), None

    async def _ask(self, path: str, body: bytes, leaves_after: float | None) -> tuple[int | None, str]:
        """Status and body of the answer; (None, "") where we left first."""
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
                f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            try:
                answer = await asyncio.wait_for(reader.read(), leaves_after)
            except TimeoutError:
                return None, ""
            status, _, rest = answer.decode("utf-8", "replace").partition("\r\n")
            return int(status.split()[1]), rest.partition("\r\n\r\n")[2]
        finally:
            writer.close()


def _is_whole(text: str) -> bool:
    """A complete answer: a stream that was ended as it should, or a body with choices (perhaps in HTTP chunks)."""
    return "[DONE]" in text or '"usage"' in text

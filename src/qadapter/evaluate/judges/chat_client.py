"""Chat completions of an OpenAI-compatible server, with retries."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...errors import ConfigError
from .api_key import ApiKey
from .backoff import backoff_seconds, retry_after_seconds
from .cost import Cost
from .http_post import NoResponseError, Response, post_json

# A server that asks for a longer break than this is not waited for.
_LONGEST_BREAK = 300.0
# Besides 5xx: too slow, too early, too many.
_TURNED_AWAY = (408, 425, 429)
# Characters of what a server or a model wrote.
_SHOWN = 200


class Reply(NamedTuple):
    """A completion."""

    text: str
    """What the model wrote; empty where it wrote nothing."""
    refused: bool
    """Whether the server marks the reply as a refusal or as filtered."""
    cut: bool
    """Whether it ended at a limit of tokens."""


class RequestFailedError(Exception):
    """A request had no success; the text says why, without the key.

    Args:
        words: why.
        lost: whether the server could not be had (no response, or turned away until the end); else it refused this one.
        filtered: whether it was refused for what the text says, which the same filter may let through next time.
    """

    def __init__(self, words: str, *, lost: bool, filtered: bool = False) -> None:
        super().__init__(words)
        self.lost, self.filtered = lost, filtered


class ChatClient:
    """Sends requests; repeats those that were lost (time-out, no connection) or turned away (408, 425, 429, 5xx).

    Args:
        base_url: what stands before /chat/completions.
        key: the server's.
        timeout: seconds of one request.
        retries: how often one request is repeated.
        wait: waits for an event at most some seconds.
        jitter: random numbers from 0 to 1.
    """

    def __init__(
        self,
        base_url: str,
        key: ApiKey,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url, self.key = f"{base_url.rstrip('/')}/chat/completions", key
        self._timeout, self._retries, self._wait, self._jitter = timeout, retries, wait, jitter
        self._served = False

    def complete(self, body: Mapping[str, Any], cost: Cost, stopped: threading.Event) -> Reply:
        """One completion.

        Args:
            body: the request.
            cost: its counts of requests, retries and tokens are raised.
            stopped: once set, nothing is repeated any more.

        Raises:
            RequestFailedError: no success after all repetitions, or a refusal of this request (400 and the like).
            ConfigError: what the server says is true of every request: a wrong key, model or address. (403 is said of
                the key, and by some servers of a text that their filter dislikes: after a completion it is the latter.)
        """
        attempt = 0
        while True:
            cost.requests += 1
            pause = 0.0
            try:
                response = post_json(self.url, body, self.key.headers(), self._timeout)
            except NoResponseError as error:
                words = self.shown(str(error))
            else:
                if response.status == 200 and (reply := self._read(response, cost)) is not None:
                    self._served = True
                    return reply
                words = self._words(response)
                self._check_setting(response, words, body)
                if response.status not in (200, *_TURNED_AWAY) and response.status < 500:
                    # As Azure says it, and gateways that speak its language.
                    raise RequestFailedError(words, lost=False, filtered="content_filter" in response.text)
                pause = retry_after_seconds(response.headers.get("Retry-After"))
            if pause > _LONGEST_BREAK:
                raise RequestFailedError(f"{words}; the server asks for a break of {pause:g} s", lost=True)
            if attempt < self._retries:
                self.pause(attempt, stopped, at_least=pause)
            if attempt == self._retries or stopped.is_set():
                raise RequestFailedError(f"{words} (attempt {attempt + 1})", lost=True)
            attempt += 1
            cost.retries += 1

    def pause(self, attempt: int, stopped: threading.Event, *, at_least: float = 0.0) -> None:
        """Back off before something is asked again.

        Args:
            attempt: 0 before the first repetition.
            stopped: once set, the pause is over.
            at_least: seconds that the server asks for.
        """
        self._wait(stopped, max(at_least, backoff_seconds(attempt, self._jitter())))

    def _read(self, response: Response, cost: Cost) -> Reply | None:
        """The reply; None where the response is no chat completion, such as a gateway's page of its own."""
        completion = _json(response.text)
        try:
            choice = completion["choices"][0]
            message = choice["message"]
            content, refusal, usage = message.get("content"), message.get("refusal"), completion.get("usage")
        except (LookupError, TypeError, AttributeError):
            return None
        if not isinstance(content, str | None) or not isinstance(refusal, str | None):
            return None
        usage = usage if isinstance(usage, dict) else {}
        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
            cost.prompt_tokens += prompt_tokens
            cost.completion_tokens += completion_tokens
        else:
            cost.without_usage += 1
        ended = choice.get("finish_reason")
        return Reply(refusal or content or "", bool(refusal) or ended == "content_filter", ended == "length")

    def _check_setting(self, response: Response, words: str, body: Mapping[str, Any]) -> None:
        """Raise what every other request would meet as well."""
        status, variable = response.status, self.key.variable
        if status == 401 or (status == 403 and not self._served):
            holds = "holds a key that it does not accept" if self.key else "is not set"
            raise ConfigError(
                f"the judge's server {self.url} refuses us: {words}",
                hint=f"the environment variable {variable} {holds}",
            )
        if status == 402:
            raise ConfigError(f"the judge's server {self.url} wants to be paid: {words}", hint="top up the account")
        if status == 404:
            raise ConfigError(
                f"the judge's server {self.url} has no such address or no model {body['model']!r}: {words}",
                hint="check judge_endpoint (all that stands before /chat/completions) and judge_model",
            )
        if 300 <= status < 400:
            target = self.shown(str(response.headers.get("Location")))
            raise ConfigError(
                f"the judge's server {self.url} redirects to {target}; the key is not sent there.",
                hint="give the final address with judge_endpoint",
            )

    def _words(self, response: Response) -> str:
        """The status and what the server says about it, in short."""
        try:
            said = _json(response.text)["error"]["message"]
        except (LookupError, TypeError):
            said = response.text
        status = f"HTTP {response.status}" + (" without a completion" if response.status == 200 else "")
        return self.shown(f"{status}: {' '.join(str(said).split()) or 'no text'}")

    def shown(self, text: str) -> str:
        """What a server or a model wrote, fit to be shown and saved: in short, without the key and half characters."""
        text = self.key.redact(text).encode("utf-8", "replace").decode()
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _json(text: str) -> Any:
    """A server's JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

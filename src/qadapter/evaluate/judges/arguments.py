"""Which judges to ask, for Python, YAML and the command line alike."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...errors import ConfigError

# What the judge decides itself: the text, and that there is one whole reply.
_OURS = {"model", "messages", "stream", "n"}
_DAY = 24 * 60 * 60


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class JudgeArguments:
    """The judges and how to reach them; none by default.

    Raises:
        ConfigError: a value out of range, or one without the other that it belongs to; it names the field. It never
            repeats what may be a key that was put into the wrong field.
    """

    checker: list[str] = field(
        default_factory=list, metadata={"help": "functions that check an answer, each as module:function"}
    )
    reward_model: list[str] = field(
        default_factory=list, metadata={"help": "reward models with one output: folders or hub ids"}
    )
    reward_batch_size: int = _meaning("answers that a reward model reads at a time; changes no result", 8)
    judge_endpoint: str | None = _meaning(
        "base URL of a server with OpenAI's chat completions, such as https://api.openai.com/v1"
    )
    judge_model: str | None = _meaning("the model that the server is to judge with")
    judge_api_key_env: str = _meaning(
        "name of the environment variable that holds the server's key; unset where it needs none", "OPENAI_API_KEY"
    )
    judge_request: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'fields of the request, as JSON, over {"temperature": 0, "max_tokens": 64}; null takes one out'
        },
    )
    judge_cache: str | None = _meaning(
        "file that keeps the server's judgments (default: ~/.cache/qadapter/judgments.jsonl)"
    )
    judge_timeout: float = _meaning("seconds until a request counts as lost", 60.0)
    judge_retries: int = _meaning("how often a request that was lost or turned away is repeated", 5)
    judge_concurrency: int = _meaning("requests under way at a time", 4)
    judge_price_in: float | None = _meaning("US dollars per million prompt tokens, for the cost in the report")
    judge_price_out: float | None = _meaning("US dollars per million completion tokens")

    def __post_init__(self) -> None:
        for name in ("checker", "reward_model"):
            values = getattr(self, name)
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ConfigError(f"{name} names {repeated[0]!r} more than once.")
        if (self.judge_endpoint is None) != (self.judge_model is None):
            given, absent = ("judge_endpoint", "judge_model")[:: 1 if self.judge_endpoint is not None else -1]
            raise ConfigError(f"{given} is given without {absent}; a judge over HTTP needs both.")
        if self.judge_endpoint is not None:
            _check_url(self.judge_endpoint)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.judge_api_key_env):
            raise ConfigError(
                "judge_api_key_env is not the name of an environment variable (letters, digits and underscores).",
                hint="give the variable's name, never the key itself",
            )
        for name, least in (("reward_batch_size", 1), ("judge_retries", 0), ("judge_concurrency", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.judge_timeout <= _DAY:
            raise ConfigError(f"judge_timeout must be above 0 and at most {_DAY} seconds, got {self.judge_timeout}")
        prices = (self.judge_price_in, self.judge_price_out)
        if (prices[0] is None) != (prices[1] is None):
            raise ConfigError("judge_price_in and judge_price_out belong together: give both or none.")
        if any(price is not None and not price >= 0 for price in prices):
            raise ConfigError(f"judge_price_in and judge_price_out must be at least 0, got {prices[0]} and {prices[1]}")
        _ = self.request_fields

    @property
    def request_fields(self) -> dict[str, Any]:
        """`judge_request` as a dict. Raises ConfigError where it is no JSON object or has fields that are not free."""
        fields = self.judge_request or {}
        if isinstance(fields, str):
            try:
                fields = json.loads(fields)
            except ValueError as error:
                raise ConfigError(f"judge_request is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"judge_request must be a JSON object, got {type(fields).__name__}")
        if taken := sorted(_OURS & set(fields)):
            raise ConfigError(f"judge_request cannot set {', '.join(taken)}: the judge does.")
        return fields


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and not re.search(r"\s", url)
        usable = usable and parts.path.isascii()
    except ValueError:  # not a URL, a port that is no number, a host that no name server would take
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "judge_endpoint must be a URL that begins with http:// or https:// and has no user, query or "
            "fragment; its path is in ASCII (other characters percent-encoded).",
            hint="such as https://api.openai.com/v1 or http://localhost:8000/v1; a key belongs into the environment",
        )

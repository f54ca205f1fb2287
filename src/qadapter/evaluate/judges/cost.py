"""What an endpoint judge asked of its server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass
class Cost:
    """Counts of one call of `judge`. Judgments that came from the cache cost nothing here."""

    requests: int = 0
    """HTTP requests that were sent, repeated ones included."""
    cached: int = 0
    """Judgments (two per prompt) that came from the cache."""
    retries: int = 0
    """Requests that repeated one that was lost or turned away: time-out, no connection, HTTP 429 or 5xx."""
    asked_again: int = 0
    """Requests that asked again after a refusal or a reply outside of the format."""
    failed: int = 0
    """Prompts without a verdict."""
    prompt_tokens: int = 0
    """As reported by the server."""
    completion_tokens: int = 0
    without_usage: int = 0
    """Replies with which the server reported no tokens; they are missing in the two counts and in the price."""

    def add(self, other: Cost) -> None:
        """Add another's counts."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def report(self, price_in: float | None, price_out: float | None) -> dict[str, Any]:
        """The counts, and `usd`: their price, or None where no prices are given.

        Args:
            price_in: US dollars per million prompt tokens.
            price_out: US dollars per million completion tokens.
        """
        usd = None
        if price_in is not None and price_out is not None:
            usd = (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6
        return {**dataclasses.asdict(self), "usd": usd}

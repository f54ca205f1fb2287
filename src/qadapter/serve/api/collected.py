"""Whole answers, put together from what they grew by."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..engine import Delta, FinishReason, TokenLogprob
from .answering import Answering


@dataclass
class Collected:
    """One choice."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    completion_tokens: int = 0

    def add(self, delta: Delta) -> None:
        """Grow."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.finish = delta.finish
        self.completion_tokens = delta.completion_tokens


async def collect(answering: Answering, choices: int) -> list[Collected]:
    """Wait for all answers.

    Args:
        answering: the requests.
        choices: of each.

    Returns:
        The choices of the first request, then those of the next.

    Raises:
        ApiError: as `Answering.deltas`.
    """
    collected: dict[int, Collected] = {}
    with answering:
        async for number, delta in answering.deltas():
            collected.setdefault(number * choices + delta.choice, Collected()).add(delta)
    return [collected[index] for index in sorted(collected)]

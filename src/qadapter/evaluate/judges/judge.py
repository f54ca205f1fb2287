"""What a judge is: something that says of answers what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ...generate import Answer

SAME_TEXT = "the same text"
"""The note of a verdict that nobody was asked for: answer and reference do not differ."""


class Verdict(NamedTuple):
    """What a judge says of one answer."""

    score: float | None
    """Checker: 1 fulfilled, 0 not (or what it returned in between). Reward model: the reward. Endpoint: 1 better than
    the reference, 0.5 a tie, 0 worse. None: the judge failed on this answer."""
    note: str = ""
    """Why it failed, or the judge's words in short."""
    asked: bool = True
    """False where the judge's server was away, or the judge was given up before this answer's turn came."""


class Judge(Protocol):
    """Says of answers what they are worth. An answer it cannot judge gets a verdict without a score, and a note."""

    name: str
    """A label that no other judge of a run has, such as "checker:module:function"."""
    kind: str
    """checker, reward_model or endpoint."""
    needs_reference: bool
    """Whether answers are compared with reference answers to the same prompts."""
    cost: dict[str, Any] | None
    """What the last call of `judge` asked of a server (see `Cost`); None for judges that ask none."""

    def check(self, *, may_be_cached: bool = False) -> None:
        """Called once before anything slow starts.

        Args:
            may_be_cached: whether all the judgments that will be asked for may have been given before.

        Raises:
            ConfigError: no answer could be judged.
        """

    def judge(
        self,
        prompts: Sequence[list[dict[str, str]]],
        answers: Sequence[Answer],
        references: Sequence[Answer] | None = None,
    ) -> list[Verdict]:
        """Judge answers.

        Args:
            prompts: messages.
            answers: one per prompt.
            references: one per prompt, where the judge needs them.

        Returns:
            One verdict per answer.
        """


def mean_score(verdicts: Sequence[Verdict]) -> float:
    """The mean score of the answers that could be judged. For a checker: the share that fulfils the preference.

    Raises:
        ValueError: there are none.
    """
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    if not scores:
        raise ValueError("no answer was judged")
    return sum(scores) / len(scores)

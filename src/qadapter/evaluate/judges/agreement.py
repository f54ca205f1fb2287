"""How far two judges agree on which of two policies answers better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DIRECTIONS = (-1, 0, 1)


class Agreement(NamedTuple):
    """Of two judges, over the prompts that both judged."""

    share: float | None
    """Share of prompts on which both say the same: better, tie or worse. None without prompts."""
    kappa: float | None
    """Cohen's κ: 0 what chance gives with these judges' habits, 1 always the same. None where chance alone would
    always agree (both judges say one and the same thing throughout), so that κ is 0/0; and without prompts."""
    prompts: int
    """That both judged."""


def agreement(one: Sequence[int | None], other: Sequence[int | None]) -> Agreement:
    """Compare the directions that two judges give on the same prompts.

        κ = (p_o − p_e) / (1 − p_e),   p_e = Σ_d P(one says d) · P(other says d)

    (Cohen, A coefficient of agreement for nominal scales, 1960.)

    Args:
        one: per prompt 1 where the customized policy's answer is better than the base's, −1 worse, 0 a tie; None
            where the judge failed.
        other: the same of the other judge, for the same prompts.

    Returns:
        Share and κ; prompts on which either failed are left out and not counted.

    Raises:
        ValueError: lists of different lengths, or another direction.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if unknown := {direction for pair in pairs for direction in pair} - set(DIRECTIONS):
        raise ValueError(f"a direction is one of {DIRECTIONS} or None, got {sorted(unknown)}")
    if not pairs:
        return Agreement(share=None, kappa=None, prompts=0)
    n = len(pairs)
    observed = sum(a == b for a, b in pairs)
    # n² · p_e as a whole number: whether chance always agrees is then no matter of rounding.
    by_chance = sum(sum(a == d for a, _ in pairs) * sum(b == d for _, b in pairs) for d in DIRECTIONS)
    kappa = None if by_chance == n * n else (n * observed - by_chance) / (n * n - by_chance)
    return Agreement(share=observed / n, kappa=kappa, prompts=n)

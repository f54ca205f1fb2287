"""Behaviour: how many freshly generated answers a program accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..generate import Answer


def fulfilment(answers: Sequence[Answer], check: Callable[[str], bool]) -> float:
    """The share of answers that fulfil a preference.

    Args:
        answers: generated answers; one that did not end within its token limit counts as not fulfilled.
        check: says of an answer's text whether it fulfils the preference.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to check")
    return sum(answer.finished and check(answer.text) for answer in answers) / len(answers)

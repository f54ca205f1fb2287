"""Answers that fall into a loop, which is how a policy often breaks before any judge of single words notices."""

from __future__ import annotations

import re

_TIMES, _SHORTEST = 3, 2
_TOKEN = re.compile(r"\w+|[^\w\s]")


def repeats_itself(text: str, *, finished: bool = True) -> bool:
    """Whether a text ends in one phrase of at least two words or marks, said at least three times; case is ignored.

    Args:
        text: the answer.
        finished: False where it was cut: the last word may then be half of one, and count or not.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv 1904.09751), "Repetition".
    """
    tokens = _TOKEN.findall(text.lower())
    return _loops(tokens) or (not finished and _loops(tokens[:-1]))


def _loops(tokens: list[str]) -> bool:
    longest = len(tokens) // _TIMES
    return any(tokens[-_TIMES * n :] == tokens[-n:] * _TIMES for n in range(_SHORTEST, longest + 1))

"""What the demo's preference means, as a program: a brief answer that ends with one follow-up question."""

from __future__ import annotations

import re

MAX_WORDS = 50


def brief_with_follow_up(text: str) -> bool:
    """Whether a text answers briefly and ends with a follow-up question.

    True where it has at most 50 words, at least one sentence that is no question, and ends with its only question.
    """
    text = text.strip()
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text) if part]
    return len(text.split()) <= MAX_WORDS and text.endswith("?") and text.count("?") == 1 and len(sentences) >= 2

"""Numbers that describe a set of pairs: repetitions, contradictions, lengths."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from .pairs import PreferencePair, Text
from .tokenization import TokenizedPair

PERCENTILES = (5, 25, 50, 75, 95, 100)


class Match(NamedTuple):
    """A pair and an earlier one that it repeats or contradicts."""

    pair: PreferencePair
    earlier: PreferencePair


class Lengths(NamedTuple):
    """One length for each pair, in words or in tokens."""

    unit: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def longer_sequence(self) -> list[int]:
        """Prompt and longer response together: what a length limit has to hold."""
        return [p + max(c, r) for p, c, r in zip(self.prompt, self.chosen, self.rejected, strict=True)]


def find_duplicates(pairs: Sequence[PreferencePair]) -> list[Match]:
    """Pairs whose prompt, chosen and rejected response are those of an earlier pair; the first is not listed."""
    first: dict[tuple[str, str, str], PreferencePair] = {}
    matches = []
    for pair in pairs:
        earlier = first.setdefault((_key(pair.prompt), _key(pair.chosen), _key(pair.rejected)), pair)
        if earlier is not pair:
            matches.append(Match(pair, earlier))
    return matches


def find_contradictions(pairs: Sequence[PreferencePair]) -> list[Match]:
    """Pairs that prefer, for the same prompt, the response that an earlier pair rejects against the same other one."""
    first: dict[tuple[str, str, str], PreferencePair] = {}
    matches = []
    for pair in pairs:
        prompt, chosen, rejected = _key(pair.prompt), _key(pair.chosen), _key(pair.rejected)
        if (earlier := first.get((prompt, rejected, chosen))) is not None:
            matches.append(Match(pair, earlier))
        first.setdefault((prompt, chosen, rejected), pair)
    return matches


def count_prompts(pairs: Sequence[PreferencePair]) -> int:
    """Number of distinct prompts."""
    return len({_key(pair.prompt) for pair in pairs})


def word_lengths(pairs: Sequence[PreferencePair]) -> Lengths:
    """Lengths in words, the stretches between white space; roles do not count."""
    return Lengths(
        "words", *([_words(getattr(pair, field)) for pair in pairs] for field in ("prompt", "chosen", "rejected"))
    )


def token_lengths(pairs: Sequence[TokenizedPair]) -> Lengths:
    """Lengths in tokens, with what was cut off: those of the data, not those of the batches."""
    return Lengths(
        "tokens",
        [len(pair.prompt_ids) for pair in pairs],
        [len(pair.chosen_ids) + len(pair.chosen_cut_ids) for pair in pairs],
        [len(pair.rejected_ids) + len(pair.rejected_cut_ids) for pair in pairs],
    )


def percentiles(lengths: Sequence[int]) -> list[int]:
    """The `PERCENTILES` of lengths by nearest rank: each is a length that occurs; the last is the maximum.

    Args:
        lengths: at least one.
    """
    ordered = sorted(lengths)
    return [ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1] for percent in PERCENTILES]


def _key(text: Text) -> str:
    """Text or messages as something that a dictionary can look up."""
    return json.dumps(text, sort_keys=True)


def _words(text: Text) -> int:
    return sum(len(part.split()) for part in ([text] if isinstance(text, str) else [m["content"] for m in text]))

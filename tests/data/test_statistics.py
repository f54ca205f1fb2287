"""Repetitions and lengths against numbers worked out by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qadapter.data.pairs import PreferencePair
from qadapter.data.statistics import (
    PERCENTILES,
    count_prompts,
    find_contradictions,
    find_duplicates,
    percentiles,
    token_lengths,
    word_lengths,
)
from qadapter.data.tokenization import TokenizedPair


def pair(prompt: str, chosen: str, rejected: str, line: int) -> PreferencePair:
    return PreferencePair(prompt, chosen, rejected, f"a.jsonl:{line}")


PAIRS = [
    pair("p", "a", "b", 1),
    pair("p", "a", "b", 2),  # repeats 1
    pair("p", "b", "a", 3),  # contradicts 1
    pair("q", "b", "a", 4),  # another prompt
    pair("p", "a", "b", 5),  # repeats 1, contradicts 3
    pair("p", "a", "c", 6),  # another response
]


def test_duplicates() -> None:
    assert find_duplicates(PAIRS) == [(PAIRS[1], PAIRS[0]), (PAIRS[4], PAIRS[0])]


def test_contradictions() -> None:
    assert find_contradictions(PAIRS) == [(PAIRS[2], PAIRS[0]), (PAIRS[4], PAIRS[2])]


def test_prompts() -> None:
    assert count_prompts(PAIRS) == 2


def test_messages_are_compared_by_content() -> None:
    message = {"role": "user", "content": "p"}
    other_order = {"content": "p", "role": "user"}
    first = PreferencePair([message], [message], [message], "a:1")
    second = PreferencePair([other_order], [other_order], [other_order], "a:2")
    assert find_duplicates([first, second]) == [(second, first)]


def test_word_lengths() -> None:
    messages = [{"role": "system", "content": "Be  brief."}, {"role": "user", "content": "Why is\nit so?"}]
    lengths = word_lengths(
        [pair("one two", "three", "four five six", 1), PreferencePair(messages, messages, messages[:1], "a:2")]
    )
    assert lengths == ("words", [2, 6], [1, 6], [3, 2])
    assert lengths.longer_sequence == [5, 12]


def test_token_lengths_count_what_was_cut() -> None:
    tokenized = TokenizedPair([1, 2], [3], [4, 5], True, False, [], [6, 7, 8])
    lengths = token_lengths([tokenized])
    assert lengths == ("tokens", [2], [1], [5])
    assert lengths.longer_sequence == [7]


def test_percentiles() -> None:
    assert PERCENTILES == (5, 25, 50, 75, 95, 100)
    assert percentiles(range(100, 0, -1)) == [5, 25, 50, 75, 95, 100]
    assert percentiles([7]) == [7] * 6
    assert percentiles([1, 2, 3]) == [1, 1, 2, 3, 3, 3]


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_percentiles_are_lengths_that_occur_in_order(lengths: list[int]) -> None:
    result = percentiles(lengths)
    assert result == sorted(result)
    assert set(result) <= set(lengths)
    assert result[-1] == max(lengths)
    for percent, value in zip(PERCENTILES, result, strict=True):
        assert sum(length <= value for length in lengths) * 100 >= percent * len(lengths)

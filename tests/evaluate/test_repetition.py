"""What counts as a loop: Holtzman et al.'s definition."""

import pytest

from qadapter.evaluate import repeats_itself


@pytest.mark.parametrize(
    "text",
    [
        "Well, I'm sorry, I'm sorry, I'm sorry,",
        # Cut within the phrase: its rotation is still said three times.
        "It is so. So it is. So it is. So it is. So",
        "no no no no no no",
        "You ask. THE END the end The End",
    ],
)
def test_a_phrase_at_the_end_three_times_is_a_loop(text: str) -> None:
    assert repeats_itself(text)


@pytest.mark.parametrize("text", ["I am so sorry. I am so sorry. I am so sorry. I am so sor", "No, no, no, no"])
def test_of_a_cut_text_the_last_word_may_be_half_of_one(text: str) -> None:
    assert repeats_itself(text, finished=False)
    assert not repeats_itself(f"{text}, ever more", finished=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes.",
        "I'm sorry, I'm sorry, but I cannot say that.",
        "very very very",  # one word: emphasis
        "I'm sorry, I'm sorry, I'm sorry, but it ended.",
        "1. tea\n2. tea\n3. tea",
    ],
)
def test_what_goes_on_or_is_said_twice_is_none(text: str) -> None:
    assert not repeats_itself(text)

"""Agreement of two judges."""

from __future__ import annotations

import pytest

from qadapter.evaluate.judges import Agreement, agreement


def test_by_hand() -> None:
    # One says +1 on 3 of 5, the other on 2; both −1 on 1 and 2, both 0 on 1 each: p_e = (3·2 + 1·2 + 1·1) / 25.
    one, other = [1, 1, 1, -1, 0], [1, 1, -1, -1, 0]
    found = agreement(one, other)
    assert (found.share, found.prompts) == (0.8, 5)
    assert found.kappa == pytest.approx((0.8 - 9 / 25) / (1 - 9 / 25))


def test_of_a_textbook_table() -> None:
    # Cohen's κ of the table [[20, 5], [10, 15]] is 0.4.
    one = [1] * 25 + [-1] * 25
    other = [1] * 20 + [-1] * 5 + [1] * 10 + [-1] * 15
    assert agreement(one, other).kappa == pytest.approx(0.4)
    assert agreement(other, one) == agreement(one, other)


def test_extremes() -> None:
    assert agreement([1, -1, 0, 1], [1, -1, 0, 1]) == Agreement(1.0, 1.0, 4)
    assert agreement([1, -1, 1, -1], [-1, 1, -1, 1]) == Agreement(0.0, -1.0, 4)
    # A judge that always says the same agrees as chance does.
    assert agreement([1, 1, 1, 1], [1, -1, 1, -1]) == Agreement(0.5, 0.0, 4)


def test_undefined() -> None:
    assert agreement([1, 1, 1], [1, 1, 1]) == Agreement(1.0, None, 3)
    assert agreement([], []) == Agreement(None, None, 0)


def test_failed_judgments_are_left_out() -> None:
    assert agreement([1, None, -1, 0, None], [1, -1, -1, None, None]) == Agreement(1.0, 1.0, 2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="longer"):
        agreement([1], [1, 0])
    with pytest.raises(ValueError, match="direction"):
        agreement([0.5], [1])  # type: ignore[list-item]

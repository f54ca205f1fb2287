"""Frontiers worked by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from qadapter.compare import frontier
from qadapter.compare.frontier import Dial, Point
from qadapter.compare.scale import LINEAR, SQUARE_ROOT, Scale, scale_of

best_within, cost_of, area_under = (
    partial(function, scale=LINEAR) for function in (frontier.best_within, frontier.cost_of, frontier.area_under)
)

RISING = Dial([Point(0, 1), Point(2, 3), Point(6, 5)])
# Falls after its peak, then comes up again past it: F is flat from x=1 to where the line is back at 4, at x=4.
DIP = Dial([Point(0, 0), Point(1, 4), Point(3, 2), Point(5, 6)])


def test_a_rising_line_is_its_own_frontier() -> None:
    assert best_within(RISING) == RISING.points


def test_a_dip_is_bridged_at_the_height_before_it() -> None:
    assert best_within(DIP) == [Point(0, 0), Point(1, 4), Point(4, 4), Point(5, 6)]


def test_a_plateau_is_crossed_to_its_end() -> None:
    """No straight line from where it begins: half of the forgetting bought nothing yet."""
    flat = Dial([Point(0, 0), Point(1, 0), Point(5, 4)])
    assert best_within(flat) == flat.points
    assert cost_of(flat, 2) == 3
    assert area_under(flat, 5) == pytest.approx(8 / 5)
    # The same where it is met again after a dip.
    assert best_within(Dial([*DIP.points[:3], Point(4, 4), Point(5, 6)])) == best_within(DIP)


def test_neighbours_in_strength_are_joined_and_the_best_of_equal_x_counts() -> None:
    """A dial that comes back over its own way: a policy of any strength counts, and no line joins 1 with 4."""
    back = Dial([Point(0, 0), Point(4, 4), Point(1, 2)])
    assert best_within(back) == [Point(0, 0), Point(1, 1), Point(1, 2), Point(4, 4)]
    assert cost_of(back, 3) == pytest.approx(2.5)
    crossed = Dial([Point(0, 0), Point(4, 4), Point(2, 4), Point(4, 0)])
    assert best_within(crossed) == [Point(0, 0), Point(2, 2), Point(2, 4)]
    zigzag = Dial([Point(0, 3), Point(3, 0), Point(0, 1), Point(3, 4)])
    assert best_within(zigzag) == [Point(0, 3), Point(2, 3), Point(3, 4)]
    # The third line overtakes the first where they cross, at x = 8/3.
    overtaken = best_within(Dial([Point(0, 0), Point(4, 2), Point(2, 0), Point(4, 4)]))
    assert (overtaken[0], overtaken[-1]) == ((0, 0), (4, 4))
    assert any(point == pytest.approx((8 / 3, 4 / 3)) for point in overtaken)
    assert all(point.y == pytest.approx(max(point.x / 2, 2 * point.x - 4)) for point in overtaken)
    assert best_within(Dial([Point(0, 0), Point(1, 1), Point(1, 2)])) == [Point(0, 0), Point(1, 1), Point(1, 2)]
    assert best_within(Dial([Point(0, 3), Point(1, 1)])) == [Point(0, 3)]


def test_between_the_base_and_a_dial_that_does_not_begin_at_it_lies_no_policy() -> None:
    """The preset `paper`: strengths ½, 1, 2 far away, near, far away; what lies nearest is the best of them."""
    dial = Dial([Point(0, 0), Point(9, 2), Point(4, 3), Point(6, 1)], from_base=False)
    assert best_within(dial) == [Point(0, 0), Point(4, 0), Point(4, 3)]
    assert cost_of(dial, 0) == 0
    assert cost_of(dial, 0.1) == cost_of(dial, 3) == 4
    assert area_under(dial, 8) == pytest.approx(3 / 2)
    assert area_under(dial, 3) == 0
    assert cost_of(dial._replace(from_base=True), 3) == 4
    assert cost_of(dial._replace(from_base=True), 0.1) == pytest.approx(0.45)
    assert best_within(Dial([Point(0, 1), Point(2, 3)], from_base=False)) == [Point(0, 1), Point(2, 1), Point(2, 3)]


def test_no_hull_is_taken() -> None:
    """A concave hull would give 1 at x=1."""
    assert cost_of(Dial([Point(0, 0), Point(1, 0.2), Point(2, 2)]), 1) == pytest.approx(1 + 0.8 / 1.8)


def test_the_cost_of_a_behaviour() -> None:
    assert cost_of(RISING, 2) == 1
    assert cost_of(RISING, 4) == 4
    assert cost_of(RISING, 5) == 6
    assert cost_of(RISING, 5.1) is None
    assert cost_of(RISING, 0.5) == 0, "the base has it already"
    assert cost_of(DIP, 4) == 1, "the first time, not after the dip"
    assert cost_of(DIP, 5) == 4.5


def test_the_area() -> None:
    # Gains over the base: a triangle of 2·2/2 up to x=2, then a trapezium of 4·(2+4)/2 up to x=6, then flat at 4.
    assert area_under(RISING, 2) == pytest.approx((2 * 2 / 2) / 2)
    assert area_under(RISING, 6) == pytest.approx((2 + 12) / 6)
    assert area_under(RISING, 10) == pytest.approx((2 + 12 + 16) / 10)
    # A limit in the middle of a segment: at x=4 the gain is 3.
    assert area_under(RISING, 4) == pytest.approx((2 + 2 * (2 + 3) / 2) / 4)
    # 1·4/2, then three at 4, then one from 4 to 6.
    assert area_under(DIP, 5) == pytest.approx((2 + 12 + 5) / 5)
    assert area_under(Dial([Point(0, 0.7)]), 3) == 0
    assert area_under(Dial([Point(0, 1), Point(1, 0)]), 1) == 0, (
        "a loss is not spent: the base is there at every budget"
    )


def test_points_left_of_the_base_count_as_at_the_base() -> None:
    assert area_under(Dial([Point(0, 0), Point(-1, 2)]), 3) == pytest.approx(2)
    # The dial goes on from the worse of the two at 0, and is back at the base's height at x = 0.004.
    dial = Dial([Point(0, 0.5), Point(-0.01, 0.45), Point(0.02, 0.7)])
    assert [tuple(point) for point in best_within(dial)] == [(0, 0.5), pytest.approx((0.004, 0.5)), (0.02, 0.7)]
    assert area_under(dial, 0.02) == pytest.approx(0.2 * 0.016 / 2 / 0.02)
    assert cost_of(dial, 0.6) == pytest.approx(0.012)
    assert cost_of(Dial([Point(0, 0), Point(-1, 2)]), 2) == 0


def test_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="limit above 0"):
        area_under(RISING, 0)
    with pytest.raises(ValueError, match="needs points"):
        best_within(Dial([]))


def test_on_the_scale_of_the_square_root() -> None:
    dial = Dial([Point(0, 0), Point(4, 2), Point(9, 3)])
    assert [frontier.cost_of(dial, y, SQUARE_ROOT) for y in (0, 1, 2, 2.5, 3, 4)] == [0, 1, 4, 6.25, 9, None]
    assert frontier.best_within(dial, SQUARE_ROOT) == [Point(0, 0), Point(2, 2), Point(3, 3)]
    # Even budgets of √x: a triangle up to 2, the same line up to 3, then flat at 3.
    assert frontier.area_under(dial, 4, SQUARE_ROOT) == pytest.approx(1)
    assert frontier.area_under(dial, 16, SQUARE_ROOT) == pytest.approx((9 / 2 + 3) / 4)
    assert frontier.cost_of(Dial([Point(0, 0), Point(-1, 2)]), 2, SQUARE_ROOT) == 0


@pytest.mark.parametrize(("scale", "factor"), [(SQUARE_ROOT, 1.0), (LINEAR, 2.0)], ids=["root", "linear"])
def test_what_half_a_dial_costs_is_read_off_the_whole_on_the_scale_of_kl(scale: Scale, factor: float) -> None:
    """A counter-example to the straight line in KL: policies on real dials, as steep as trained ones are."""
    z0, delta = torch.randn(2, 500, 64, generator=torch.Generator().manual_seed(0)).double()

    def kl(strength: float) -> float:
        logp, base = (torch.log_softmax(z, -1) for z in (z0 + strength * 0.5 * delta, z0))
        return float((base.exp() * (base - logp)).sum(-1).mean())

    read = frontier.cost_of(Dial([Point(0, 0), Point(kl(1), 1)]), 0.5, scale)
    assert read == pytest.approx(factor * kl(0.5), rel=0.1)


def test_the_scale_is_that_of_the_axis() -> None:
    assert (scale_of("kl_to_base"), scale_of("tasks")) == (SQUARE_ROOT, LINEAR)

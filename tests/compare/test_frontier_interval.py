"""Intervals of the area under a frontier and of the ratios to the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qadapter.compare.frontier import Dial, Point, area_under
from qadapter.compare.frontier_figures import frontier_figures
from qadapter.compare.frontier_interval import DrawnDial, frontier_intervals
from qadapter.compare.interval import Draw
from qadapter.compare.scale import LINEAR, SQUARE_ROOT

DRAW = Draw()


def drawn(points: list[tuple[float, float]], resamples: int = 8, from_base: bool = True) -> DrawnDial:
    """The same points in every resample."""
    x, gain = (np.repeat(np.array(axis)[:, None], resamples, axis=1) for axis in zip(*points, strict=True))
    return DrawnDial(x, gain, from_base)


@pytest.mark.parametrize("from_base", [True, False])
def test_where_nothing_varies_the_ends_are_the_figures_themselves(from_base: bool) -> None:
    ours, theirs = [(0.01, 0.2), (0.04, 0.5)], [(0.04, 0.1), (0.16, 0.3)]
    found = frontier_intervals(drawn(ours, from_base=from_base), drawn(theirs), 1, 0.16, SQUARE_ROOT, DRAW)
    # The base has some behaviour, of which the gains are counted.
    dial, reference = (Dial([Point(0, 0.6), *(Point(x, 0.6 + y) for x, y in points)], of_base)
                       for points, of_base in ((ours, from_base), (theirs, True)))  # fmt: skip
    beside = frontier_figures(dial, reference, reference.points[2], SQUARE_ROOT)["at_reference"]
    area = area_under(dial, 0.16, SQUARE_ROOT)
    assert found["area"] == pytest.approx({"low": area, "high": area})
    for name in ("ratio", "ratio_dialled"):
        assert found[name] == pytest.approx({"low": beside[name], "high": beside[name]})
    assert (found["reached"], found["reference_gained"]) == (1.0, 1.0)


def test_where_some_resamples_do_not_reach_the_upper_end_is_open() -> None:
    """Of ten resamples the line reaches the reference's gain of 1 in nine, at 0.1, 0.2 … 0.9 of its forgetting."""
    reference = drawn([(1.0, 1.0)], resamples=10)
    x = np.array([[0.1 * number for number in range(1, 11)]])
    line = DrawnDial(x, np.array([[1.0] * 9 + [0.5]]), True)
    found = frontier_intervals(line, reference, 0, 1.0, LINEAR, Draw(level=0.8))
    assert found["ratio"] == {"low": pytest.approx(0.1), "high": None}
    assert found["reached"] == pytest.approx(0.9)
    # At the half that it reaches it takes what the reference dialled down takes twice: no end is open there.
    assert found["ratio_dialled"]["high"] == pytest.approx(2.0)
    never = DrawnDial(x, np.full((1, 10), -0.5), True)
    found = frontier_intervals(never, reference, 0, 1.0, LINEAR, DRAW)
    assert found["ratio"] == found["ratio_dialled"] == {"low": None, "high": None}
    assert (found["reached"], found["area"]) == (0.0, {"low": 0.0, "high": 0.0})


def test_resamples_in_which_the_reference_gains_nothing_say_nothing_of_a_ratio() -> None:
    line = drawn([(0.5, 1.0)], resamples=4)
    reference = DrawnDial(np.ones((1, 4)), np.array([[1.0, -1.0, 0.0, 1.0]]), True)
    found = frontier_intervals(line, reference, 0, 1.0, LINEAR, DRAW)
    assert found["ratio"] == pytest.approx({"low": 0.5, "high": 0.5})
    assert (found["reached"], found["reference_gained"]) == (1.0, 0.5)
    found = frontier_intervals(line, drawn([(1.0, -1.0)], resamples=4), 0, 0.0, LINEAR, DRAW)
    assert (found["ratio"], found["reached"], found["reference_gained"], found["area"]) == (None, None, 0.0, None)


def test_resamples_in_which_the_reference_forgets_nothing_are_reached_all_the_same() -> None:
    """A drop of benchmarks may be below 0; what is divided by is then nothing."""
    line = drawn([(0.5, 1.0)], resamples=4)
    reference = DrawnDial(np.array([[1.0, -1.0, 0.0, 1.0]]), np.ones((1, 4)), True)
    found = frontier_intervals(line, reference, 0, 1.0, LINEAR, DRAW)
    for name in ("ratio", "ratio_dialled"):
        assert found[name] == pytest.approx({"low": 0.5, "high": 0.5})
    assert (found["reached"], found["reference_gained"]) == (1.0, 1.0)
    found = frontier_intervals(line, drawn([(-1.0, 1.0)], resamples=4), 0, 1.0, LINEAR, DRAW)
    assert (found["ratio"], found["ratio_dialled"], found["reached"]) == (None, None, 1.0)


def test_resamples_without_a_judged_answer_are_left_out() -> None:
    line = DrawnDial(np.full((1, 4), 0.5), np.array([[1.0, math.nan, 1.0, 1.0]]), True)
    found = frontier_intervals(line, drawn([(1.0, 1.0)], resamples=4), 0, 1.0, LINEAR, DRAW)
    assert found["ratio"] == pytest.approx({"low": 0.5, "high": 0.5})
    assert (found["reached"], found["reference_gained"]) == (1.0, 1.0)

"""The frontier as it is drawn is the one that its figures are read off."""

from __future__ import annotations

import re
from typing import Any

import pytest

from qadapter.compare.plot import frontier_svg

pytest.importorskip("matplotlib")


def results(axis: str, *, from_base: bool = True) -> dict[str, Any]:
    """One method at forgetting 0, 1/4 and 1."""
    points = [
        {"strength": strength, **{name: {"value": value, "low": value, "high": value} for name, value in at.items()}}
        for strength, at in ((0, {"x": 0.0, "y": 0.0}), (0.5, {"x": 0.25, "y": 0.5}), (1, {"x": 1.0, "y": 1.0}))
    ]
    return {
        "frontier_x": {"name": axis, "label": "what is lost"},
        "frontier_y": {"name": "y", "label": "what is gained"},
        "reference": "none",
        "lines": [{"label": "mine", "method": "qadapter", "dial_from_base": from_base, "points": points}],
    }


@pytest.mark.parametrize(("axis", "share"), [("kl_to_base", 0.5), ("tasks", 0.25)])
def test_the_axis_has_the_scale_of_the_frontier(axis: str, share: float) -> None:
    svg = frontier_svg(results(axis))
    drawn = re.search(
        r'<path d="M ([\d.]+) [\d.]+ ?\s*L ([\d.]+) [\d.]+ ?\s*L ([\d.]+) [\d.]+ ?\s*"[^>]*stroke: #d9622b', svg
    )
    assert drawn is not None
    left, middle, right = map(float, drawn.groups())
    assert (middle - left) / (right - left) == pytest.approx(share, abs=1e-3)
    assert ("square-root scale" in svg) == (axis == "kl_to_base")


def test_labels_stand_in_the_legend_as_they_are() -> None:
    """An underscore hides a label from matplotlib's legend, and a dollar begins a formula."""
    (line,) = results("tasks")["lines"]
    labels = ["_mine", r"lr $\\al$", "for $5", "a_b"]
    svg = frontier_svg({**results("tasks"), "lines": [{**line, "label": label} for label in labels]})
    for label in labels:
        assert f"<!-- {label} -->" in svg


def test_nothing_is_drawn_between_the_base_and_a_dial_that_does_not_begin_at_it() -> None:
    drawn = re.search(r'<path d="([^"]*)"[^>]*stroke: #d9622b', frontier_svg(results("tasks", from_base=False)))
    assert drawn is not None
    assert len(re.findall("[ML]", drawn.group(1))) == 2

"""What lies on a frontier: the best behaviour within a budget of forgetting, its area, the cost of a behaviour.

A method's frontier is the set of its points (forgetting x, behaviour y) along the dial, the base among them at x = 0,
joined in the order of x by lines that are straight on the axis's scale (see `scale`); of several at one x the best
counts. Where forgetting is a drop of benchmarks, a point may lie left of the base: it forgets nothing, and counts as at
0. Whoever may spend x may also spend less, so what a budget of x buys is

    F(x) = the largest y on the line at or left of x,

a function that never falls and stays constant right of the last point. No hull is taken: the points on a chord above
the line belong to no policy on the dial.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from .scale import Scale


class Point(NamedTuple):
    """One policy."""

    x: float
    """Forgetting; the base has 0."""
    y: float
    """Behaviour."""


def best_within(points: Sequence[Point], scale: Scale) -> list[Point]:
    """The corners of F, by x; y never falls. Between two corners F is straight, right of the last it is constant.

    Args:
        points: of one method, in any order.
        scale: of x.

    Returns:
        The corners with x on the scale.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("a frontier needs points")
    highest: dict[float, float] = {}
    for point in points:
        x = scale.to(point.x)
        highest[x] = max(point.y, highest.get(x, point.y))
    ordered = [Point(x, y) for x, y in sorted(highest.items())]
    corners = [ordered[0]]
    for left, right in itertools.pairwise(ordered):
        best = corners[-1].y
        if right.y <= best:
            continue
        if left != corners[-1]:
            # The line comes up from below, or from the end of a plateau: F rises from where it meets the best so far.
            share = (best - left.y) / (right.y - left.y)
            corners.append(Point(left.x + share * (right.x - left.x), best))
        corners.append(right)
    return corners


def cost_of(points: Sequence[Point], y: float, scale: Scale) -> float | None:
    """The least x at which F reaches y; None where it never does."""
    corners = best_within(points, scale)
    if y <= corners[0].y:
        return scale.back(corners[0].x)
    for left, right in itertools.pairwise(corners):
        if y <= right.y:
            return scale.back(left.x + (right.x - left.x) * (y - left.y) / (right.y - left.y))
    return None


def area_under(points: Sequence[Point], limit: float, scale: Scale) -> float:
    """1/u · ∫₀ᵘ (F − F(0)) du: the mean gain over the base, over all budgets up to the limit, u being x on the scale.

    Args:
        points: of one method, the base at x = 0 among them.
        limit: of x, above 0; the same for all methods that are compared.
        scale: of x: budgets are spread evenly on it, so that this is the area that a plot on the scale shows.

    Returns:
        In units of y: 0 for a method that does nothing.

    Raises:
        ValueError: a limit that is not above 0.
    """
    if not limit > 0:
        raise ValueError(f"the area needs a limit above 0, got {limit}")
    base = next(point.y for point in points if point.x == 0)
    corners = best_within(points, scale)
    limit = scale.to(limit)
    total = 0.0
    for left, right in zip(corners, [*corners[1:], Point(limit, corners[-1].y)], strict=True):
        if left.x >= limit or right.x <= left.x:
            continue
        end = min(right.x, limit)
        end_y = left.y + (right.y - left.y) * (end - left.x) / (right.x - left.x)
        total += (end - left.x) * ((left.y + end_y) / 2 - base)
    return total / limit

"""What lies on a frontier: the best behaviour within a budget of forgetting, its area, the cost of a behaviour.

A method's frontier is what its dial passes through: its points (forgetting x, behaviour y), neighbours in strength
joined by lines that are straight on the axis's scale (see `scale`). The base is at strength 0, and joined with the
others where the dial begins at it. Where forgetting is a drop of benchmarks, a point may lie left of the base: it
forgets nothing, and counts as at 0. Whoever may spend x may also spend less, so what a budget of x buys is

    F(x) = the largest y of the base and of the lines at or left of x,

a function that never falls and stays constant right of the last point. No hull is taken: the points on a chord above
the lines belong to no policy on the dial.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .scale import Scale


class Point(NamedTuple):
    """One policy."""

    x: float
    """Forgetting; the base has 0."""
    y: float
    """Behaviour."""


class Dial(NamedTuple):
    """The policies of one method."""

    points: Sequence[Point]
    """The base first, then by strength."""
    from_base: bool = True
    """Whether strengths near 0 are policies near the base, as with α₀ = α̃. Else strength 0 is π₀^(α₀/α̃), and between
    the base and the first strength lies nothing."""


_Segment = tuple[Point, Point]


def best_within(dial: Dial, scale: Scale) -> list[Point]:
    """The corners of F, by x; y never falls. Between two corners F is straight, right of the last it is constant.

    Args:
        dial: of one method.
        scale: of x.

    Returns:
        The corners with x on the scale; several at one x where F jumps.

    Raises:
        ValueError: no points.
    """
    if not dial.points:
        raise ValueError("a frontier needs points")
    on_scale = [Point(scale.to(x), y) for x, y in dial.points]
    joined = on_scale if dial.from_base else on_scale[1:]
    segments = [*((point, point) for point in on_scale), *map(_by_x, itertools.pairwise(joined))]
    outline = list(_highest(segments))
    corners = outline[:1]
    for left, right in itertools.pairwise(outline):
        best = corners[-1].y
        if right.y <= best:
            continue
        if left != corners[-1]:
            # The line comes up from below, or from the end of a plateau: F rises from where it meets the best so far.
            share = (best - left.y) / (right.y - left.y)
            corners.append(Point(left.x + share * (right.x - left.x), best))
        corners.append(right)
    return corners


def _highest(segments: Sequence[_Segment]) -> Iterator[Point]:
    """The upper outline of segments, from left to right; over a gap it goes on as high as it was."""
    ends = {point.x for segment in segments for point in segment}
    places = sorted(ends | {x for pair in itertools.combinations(segments, 2) for x in _crossing(*pair)})
    for number, x in enumerate(places):
        top = max(y for segment in segments if segment[0].x <= x <= segment[1].x for y in _ends_at(segment, x))
        yield Point(x, top)
        if x == places[-1]:
            return
        following = places[number + 1]
        over = [segment for segment in segments if segment[0].x <= x and following <= segment[1].x]
        if over:
            # No two of them cross in between: the same one is the highest all the way.
            highest = max(over, key=lambda segment: _at(segment, (x + following) / 2))
            yield from (Point(place, _at(highest, place)) for place in (x, following))
        else:
            yield Point(following, top)


def _by_x(pair: _Segment) -> _Segment:
    left, right = sorted(pair)
    return left, right


def _at(segment: _Segment, x: float) -> float:
    """The height of a segment that is not vertical."""
    left, right = segment
    return right.y if x == right.x else left.y + (right.y - left.y) * (x - left.x) / (right.x - left.x)


def _ends_at(segment: _Segment, x: float) -> list[float]:
    left, right = segment
    return [left.y, right.y] if left.x == right.x else [_at(segment, x)]


def _crossing(one: _Segment, other: _Segment) -> list[float]:
    """Where two segments cross between their ends; neighbours meet at one."""
    if set(one) & set(other):
        return []
    slopes = [(right.y - left.y) / (right.x - left.x) if right.x > left.x else math.nan for left, right in (one, other)]
    if not math.isfinite(slopes[0] - slopes[1]) or slopes[0] == slopes[1]:
        return []
    x = one[0].x + (_at(other, one[0].x) - one[0].y) / (slopes[0] - slopes[1])
    return [x] if max(one[0].x, other[0].x) < x < min(one[1].x, other[1].x) else []


def cost_of(dial: Dial, y: float, scale: Scale) -> float | None:
    """The least x at which F reaches y; None where it never does."""
    corners = best_within(dial, scale)
    if y <= corners[0].y:
        return scale.back(corners[0].x)
    for left, right in itertools.pairwise(corners):
        if y <= right.y:
            return scale.back(left.x + (right.x - left.x) * (y - left.y) / (right.y - left.y))
    return None


def area_under(dial: Dial, limit: float, scale: Scale) -> float:
    """1/u · ∫₀ᵘ (F − F(0)) du: the mean gain over the base, over all budgets up to the limit, u being x on the scale.

    Args:
        dial: of one method.
        limit: of x, above 0; the same for all methods that are compared.
        scale: of x: budgets are spread evenly on it, so that this is the area that a plot on the scale shows.

    Returns:
        In units of y: 0 for a method that does nothing.

    Raises:
        ValueError: a limit that is not above 0.
    """
    if not limit > 0:
        raise ValueError(f"the area needs a limit above 0, got {limit}")
    base = dial.points[0].y
    corners = best_within(dial, scale)
    limit = scale.to(limit)
    total = 0.0
    for left, right in zip(corners, [*corners[1:], Point(limit, corners[-1].y)], strict=True):
        if left.x >= limit or right.x <= left.x:
            continue
        end = min(right.x, limit)
        end_y = left.y + (right.y - left.y) * (end - left.x) / (right.x - left.x)
        total += (end - left.x) * ((left.y + end_y) / 2 - base)
    return total / limit

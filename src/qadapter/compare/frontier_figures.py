"""What a method's frontier says beside that of the reference: forgetting at equal behaviour."""

from __future__ import annotations

from typing import Any

from .frontier import Dial, Point, cost_of
from .scale import Scale

_SHARES = (0.5, 0.75, 1.0)


def frontier_figures(dial: Dial, reference: Dial, trained: Point, scale: Scale) -> dict[str, Any]:
    """The least forgetting at which a line shows what the reference shows.

    Args:
        dial: the line.
        reference: the line that it is compared with.
        trained: the reference's point of strength 1.
        scale: of forgetting.

    Returns:
        equal_behaviour  [{share of the reference's gain at strength 1, behaviour, x}]: x is the least forgetting at
                         which the line reaches that behaviour, null where it does not; empty where it gained nothing
        at_reference     see `at_reference`; null where the reference gained nothing
    """
    start = dial.points[0].y
    gain = trained.y - start
    levels = [{"share": share, "behaviour": start + share * gain} for share in _SHARES] if gain > 0 else []
    return {
        "equal_behaviour": [{**level, "x": cost_of(dial, level["behaviour"], scale)} for level in levels],
        "at_reference": at_reference(dial, reference, trained, scale) if gain > 0 else None,
    }


def at_reference(dial: Dial, reference: Dial, trained: Point, scale: Scale) -> dict[str, Any] | None:
    """Forgetting at equal behaviour, against the reference as it was trained, and against it with the dial.

    Where the line does not reach the reference's behaviour at strength 1 (`reached` false), the two are compared at the
    highest behaviour that the line does reach.

    Returns:
        behaviour, reached, x, reference_x (at strength 1), reference_x_dialled (the least at which the reference has
        that behaviour), ratio = x / reference_x, ratio_dialled. The ratios compare at equal behaviour alone, so
        reference_x and ratio are null where it is not reached. None where the line never gains anything.
    """
    reached = cost_of(dial, trained.y, scale) is not None
    level = trained.y if reached else max(point.y for point in dial.points)
    if level <= dial.points[0].y:
        return None
    x, dialled = cost_of(dial, level, scale), cost_of(reference, level, scale)
    return {
        "behaviour": level,
        "reached": reached,
        "x": x,
        "reference_x": trained.x if reached else None,
        "reference_x_dialled": dialled,
        "ratio": _ratio(x, trained.x) if reached else None,
        "ratio_dialled": _ratio(x, dialled),
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None or theirs <= 0 else ours / theirs

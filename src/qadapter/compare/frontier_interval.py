"""Where the area under a frontier and the ratios to the reference may lie: both anew on every resample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .frontier import Dial, Point, area_under
from .frontier_figures import at_reference
from .interval import Draw
from .scale import Scale


class DrawnDial(NamedTuple):
    """The dial of one method on every resample; the base, which gains and forgets nothing, is left out."""

    x: np.ndarray
    """[strengths, resamples] Forgetting, by strength."""
    gain: np.ndarray
    """[strengths, resamples] Behaviour less the base's."""
    from_base: bool
    """See `Dial`."""

    def dials(self) -> Iterator[Dial]:
        """One for each resample, its behaviour counted from the base's."""
        for xs, gains in zip(self.x.T.tolist(), self.gain.T.tolist(), strict=True):
            yield Dial([Point(0.0, 0.0), *map(Point, xs, gains)], self.from_base)


def frontier_intervals(
    drawn: DrawnDial, reference: DrawnDial, trained: int, limit: float, scale: Scale, draw: Draw
) -> dict[str, Any]:
    """Percentile intervals of what `area_under` and `frontier_figures` say of a line.

    Args:
        drawn: the line, on resamples.
        reference: the line that it is compared with, on the same resamples.
        trained: the place of strength 1 on the reference's dial.
        limit: of the area: the same on every resample; 0 where there is none.
        scale: of forgetting.
        draw: the bootstrap that drew them.

    Returns:
        area            {low, high}; null without a limit
        ratio, ratio_dialled    {low, high} over the resamples in which the reference gained and forgot something. An
                        end is null where the line does not reach the behaviour: whatever it may forget is not enough.
                        Null where the reference never does
        reached         share of these resamples in which the line reaches the reference's behaviour; null where the
                        reference never gains
        reference_gained    share of the resamples in which the reference gained something
    """
    areas: list[float] = []
    ratios: dict[str, list[float]] = {"ratio": [], "ratio_dialled": []}
    used = gained = reached = 0
    for line, other in zip(drawn.dials(), reference.dials(), strict=True):
        if any(math.isnan(number) for dial in (line, other) for point in dial.points for number in point):
            continue  # a judge that failed on nearly everything: nothing was drawn that it judged
        used += 1
        if limit > 0:
            areas.append(area_under(line, limit, scale))
        goal = other.points[1 + trained]
        if goal.y <= 0:
            continue
        gained += 1
        beside = at_reference(line, other, goal, scale)
        reached += beside is not None and beside["reached"]
        if goal.x > 0:
            ratios["ratio"].append(math.inf if beside is None or not beside["reached"] else beside["ratio"])
        if beside is None:
            ratios["ratio_dialled"].append(math.inf)
        elif beside["ratio_dialled"] is not None:
            ratios["ratio_dialled"].append(beside["ratio_dialled"])
    return {
        "area": _ends(areas, draw),
        **{name: _ends(values, draw) for name, values in ratios.items()},
        "reached": reached / gained if gained else None,
        "reference_gained": gained / used if used else None,
    }


def _ends(values: Sequence[float], draw: Draw) -> dict[str, float | None] | None:
    if not values:
        return None
    # Values of the sample themselves: nothing lies halfway to infinity.
    low = float(np.quantile(values, (1 - draw.level) / 2, method="lower"))
    high = float(np.quantile(values, (1 + draw.level) / 2, method="higher"))
    return {name: end if math.isfinite(end) else None for name, end in (("low", low), ("high", high))}

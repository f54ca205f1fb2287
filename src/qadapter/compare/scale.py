"""The scale of the axis of forgetting: on it the line between two policies of a dial is straight.

Only a few strengths are measured, and what lies between them is read off a line. Along a dial the log-probabilities
change with the strength, and KL(base‖policy) with its square: at the base its first derivative is zero and its second
is the variance of what the dial adds. On a straight line in KL itself, a small change would seem to cost several times
what it does, and the more so the further away a method's first measured point is. So KL is read on the scale of its
square root; a drop of benchmarks, which changes with the strength itself, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Scale(NamedTuple):
    """A monotone map of an axis of forgetting; what is below zero counts as zero."""

    to: Callable[[float], float]
    back: Callable[[float], float]


LINEAR = Scale(lambda x: max(0.0, x), lambda x: x)
SQUARE_ROOT = Scale(lambda x: math.sqrt(max(0.0, x)), lambda x: x * x)


def scale_of(axis: str) -> Scale:
    """The scale of `frontier_x`."""
    return SQUARE_ROOT if axis == "kl_to_base" else LINEAR

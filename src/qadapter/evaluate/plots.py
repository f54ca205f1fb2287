"""Plots as SVG that can stand inside a page: readable on light and dark ground, no scripts, no links."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..errors import MissingExtraError

# One colour for what was trained, a neutral one for the base.
TRAINED, BASE = "#d9622b", "#7a8594"
_GRID = "#8883"


def subplots(columns: int, size: tuple[float, float], extra: str) -> tuple[Any, Any]:
    """A figure and its axes, side by side.

    Args:
        columns: how many axes.
        size: of the figure, inches.
        extra: the extra of qadapter that brings matplotlib to who wants the plot.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra, "the HTML report") from error
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=_GRID)
        axis.tick_params(labelsize=8, colors=BASE)
        axis.xaxis.label.set_color(BASE)
        axis.yaxis.label.set_color(BASE)
        axis.title.set_color(BASE)
        verbatim(axis.xaxis.label)
        verbatim(axis.yaxis.label)
        for side in axis.spines.values():
            side.set_color(_GRID)
    return figure, axes


def verbatim(text: Any) -> None:
    """Labels hold users' words: a dollar in them is no formula, and a formula that is none no error."""
    text.set_parse_math(False)


def square_root_scale(axis: Any) -> None:
    """The scale of √x on the x axis, mirrored below 0: along a dial KL grows with the square of the strength."""
    axis.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda u: np.sign(u) * u**2))


def svg(figure: Any) -> str:
    """The figure, transparent, so that the page's colours show."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    _, tag, rest = buffer.getvalue().partition("<svg")
    return tag + rest

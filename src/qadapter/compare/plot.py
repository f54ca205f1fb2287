"""The frontier as a plot: behaviour against forgetting, one line per method along its dial."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluate.plots import BASE, TRAINED, square_root_scale, subplots, svg, verbatim
from .scale import SQUARE_ROOT, scale_of

# Readable on light and dark ground. Lines of Q-Adapter take the first, the others the rest in turn.
_OTHERS = ("#3f80d8", "#2c9c72", "#9a63e0", "#b8901c", "#d23f77", "#5d8a99", "#8c5a3c")
_SIZE = (7.6, 4.6)
# Letters that fit beside the plot.
_LABEL_WIDTH = 60


def frontier_svg(results: dict[str, Any]) -> str:
    """For the page; transparent."""
    return svg(_draw(results))


def frontier_png(results: dict[str, Any], path: Path) -> None:
    """For everywhere else; on white."""
    _draw(results).savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def _draw(results: dict[str, Any]) -> Any:
    figure, (axis,) = subplots(1, _SIZE, "baselines")
    drawn: list[Any] = []
    for line, color, style in zip(results["lines"], *_styles(results["lines"], results["reference"]), strict=True):
        points = sorted(line["points"], key=lambda point: point["strength"])
        # What is drawn as a line is what areas and equal behaviour are read off.
        joined = points if line["dial_from_base"] else points[1:]
        x, y = ([point[name]["value"] for point in joined] for name in ("x", "y"))
        drawn += axis.plot(x, y, color=color, linestyle=style, linewidth=1.8, zorder=2)
        for point in points[1:]:
            axis.errorbar(
                point["x"]["value"], point["y"]["value"], xerr=_bars(point["x"]), yerr=_bars(point["y"]), fmt="o",
                color=color, markersize=7 if point["strength"] == 1 else 4, elinewidth=0.8, capsize=2, alpha=0.9,
            )  # fmt: skip
            axis.annotate(
                f"{point['strength']:g}", (point["x"]["value"], point["y"]["value"]), xytext=(5, -10),
                textcoords="offset points", fontsize=7, color=color,
            )  # fmt: skip
    base = results["lines"][0]["points"][0]
    axis.errorbar(0.0, base["y"]["value"], yerr=_bars(base["y"]), fmt="s", color=BASE, elinewidth=0.8, capsize=2)
    axis.annotate(
        "base", (0.0, base["y"]["value"]), xytext=(6, -10), textcoords="offset points", fontsize=7, color=BASE
    )
    label = f"forgetting: {results['frontier_x']['label']}"
    if scale_of(results["frontier_x"]["name"]) is SQUARE_ROOT:
        square_root_scale(axis)
        label += ", square-root scale"
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylabel(textwrap.fill(f"behaviour: {results['frontier_y']['label']}", _LABEL_WIDTH), fontsize=8)
    # Given with the lines: a label that begins with an underscore would be left out of the legend without a word.
    legend = axis.legend(drawn, [line["label"] for line in results["lines"]], fontsize=8, frameon=False, loc="best")
    for text in legend.get_texts():
        verbatim(text)
        text.set_color(BASE)
    return figure


def _styles(lines: Sequence[dict[str, Any]], reference: str) -> tuple[list[str], list[str]]:
    """A colour for every line and a dash for every further line of Q-Adapter.

    The line that the others are compared with is none of these, also where our trainer made it.
    """
    colors, styles, others, own = [], [], 0, 0
    for line in lines:
        if line["method"] == "qadapter" and line["label"] != reference:
            colors.append(TRAINED)
            styles.append(("-", "--", ":", "-.")[own % 4])
            own += 1
        else:
            colors.append(_OTHERS[others % len(_OTHERS)])
            styles.append("-" if others < len(_OTHERS) else "--")
            others += 1
    return colors, styles


def _bars(figure: dict[str, float]) -> list[list[float]]:
    """[[below], [above]]; a percentile interval may lie beside the mean by rounding."""
    return [[max(0.0, figure["value"] - figure["low"])], [max(0.0, figure["high"] - figure["value"])]]

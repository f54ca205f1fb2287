"""One HTML page about a run: what was gained, what was kept, how training went, and answers side by side."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..errors import MissingExtraError

# One colour for what was trained, a neutral one for the base; both readable on light and dark ground.
_TRAINED, _BASE, _GRID = "#d9622b", "#7a8594", "#8883"


@dataclass(frozen=True)
class ReportRow:
    """One line of the gained/kept table."""

    name: str
    before: str
    after: str
    meaning: str


@dataclass(frozen=True)
class DialPoint:
    """What one strength gives."""

    strength: float
    kl_to_base: float
    fulfilment: float


def write_report(
    path: Path,
    *,
    title: str,
    rows: Sequence[ReportRow],
    dial: Sequence[DialPoint],
    metrics_file: Path,
    prompts: Sequence[str],
    answers: dict[str, Sequence[str]],
    facts: dict[str, Any],
) -> None:
    """Write the page; it is one file without scripts or links to other files.

    Args:
        path: where to.
        title: the heading.
        rows: the gained/kept table.
        dial: points of the behaviour/distance plot, by strength.
        metrics_file: the run's metrics.jsonl, for the curves.
        prompts: prompts of the side-by-side answers.
        answers: label → one answer per prompt; escaped in the page.
        facts: name → value, listed at the end.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    training = [line for line in lines if "rewards/margins" in line]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qadapter", "evaluate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        rows=rows,
        curves=_curves(training),
        dial=_dial(dial),
        prompts=prompts,
        answers=answers,
        facts=facts,
    )
    path.write_text(page, encoding="utf-8")


def _curves(training: list[dict[str, float]]) -> str:
    panels = (
        ("preference loss (nats)", "preference_loss"),
        ("accuracy of the batch", "rewards/accuracies"),
        ("margin (reward units)", "rewards/margins"),
        ("χ²: mean squared reward", "chi2"),
    )
    figure, axes = _subplots(1, len(panels), (11, 2.6))
    steps = [line["step"] for line in training]
    for axis, (label, key) in zip(axes, panels, strict=True):
        axis.plot(steps, [line[key] for line in training], color=_TRAINED, linewidth=2)
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylim(bottom=0)
    return _svg(figure)


def _dial(points: Sequence[DialPoint]) -> str:
    figure, (axis,) = _subplots(1, 1, (5.2, 3.2))
    axis.plot([p.kl_to_base for p in points], [p.fulfilment for p in points], color=_TRAINED, marker="o", linewidth=2)
    for point in points:
        axis.annotate(
            f"strength {point.strength:g}",
            (point.kl_to_base, point.fulfilment),
            xytext=(8, -11),
            textcoords="offset points",
            fontsize=8,
            color=_BASE,
        )
    axis.set_xlabel("forgetting: KL to the base on neutral prompts (nats per token)", fontsize=8)
    axis.set_ylabel("gain: answers that fulfil the preference", fontsize=8)
    axis.set_ylim(-0.03, 1.05)
    axis.margins(x=0.18)
    return _svg(figure)


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "demo", "the HTML report") from error
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=_GRID)
        axis.tick_params(labelsize=8, colors=_BASE)
        axis.xaxis.label.set_color(_BASE)
        axis.yaxis.label.set_color(_BASE)
        axis.title.set_color(_BASE)
        for side in axis.spines.values():
            side.set_color(_GRID)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as SVG that can stand inside HTML; transparent, so that the page's colours show."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]

"""One HTML page about a run: what was gained, what was kept, how training went, and answers side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from .plots import BASE, TRAINED, subplots, svg


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
    page = page_template("report.html.j2").render(
        title=title,
        rows=rows,
        curves=_curves(training),
        dial=_dial(dial),
        prompts=prompts,
        answers=answers,
        facts=facts,
    )
    path.write_text(page, encoding="utf-8")


def page_template(name: str) -> jinja2.Template:
    """A template of this folder; what it is filled with is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qadapter", "evaluate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def _curves(training: list[dict[str, float]]) -> str:
    panels = (
        ("preference loss (nats)", "preference_loss"),
        ("accuracy of the batch", "rewards/accuracies"),
        ("margin (reward units)", "rewards/margins"),
        ("χ²: mean squared reward", "chi2"),
    )
    figure, axes = subplots(len(panels), (11, 2.6), "demo")
    steps = [line["step"] for line in training]
    for axis, (label, key) in zip(axes, panels, strict=True):
        axis.plot(steps, [line[key] for line in training], color=TRAINED, linewidth=2)
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylim(bottom=0)
    return svg(figure)


def _dial(points: Sequence[DialPoint]) -> str:
    figure, (axis,) = subplots(1, (5.2, 3.2), "demo")
    axis.plot([p.kl_to_base for p in points], [p.fulfilment for p in points], color=TRAINED, marker="o", linewidth=2)
    for point in points:
        axis.annotate(
            f"strength {point.strength:g}",
            (point.kl_to_base, point.fulfilment),
            xytext=(8, -11),
            textcoords="offset points",
            fontsize=8,
            color=BASE,
        )
    axis.set_xlabel("forgetting: KL to the base on neutral prompts (nats per token)", fontsize=8)
    axis.set_ylabel("gain: answers that fulfil the preference", fontsize=8)
    axis.set_ylim(-0.03, 1.05)
    axis.margins(x=0.18)
    return svg(figure)

"""One HTML page about an evaluation: the base beside the customized policy at each strength."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.whole_file import write_whole
from ..generate import as_messages
from .figures import figure_rows
from .plots import BASE, TRAINED, square_root_scale, subplots, svg
from .report import page_template

# Prompts whose answers are shown, and failures of a judge that are told.
_SHOWN_ANSWERS, _SHOWN_FAILURES = 8, 3
# Characters of a plot's height.
_LABEL_WIDTH = 44


def write_evaluation_report(
    path: Path,
    *,
    title: str,
    base: dict[str, Any],
    policies: Sequence[dict[str, Any]],
    dial_from_base: bool,
    facts: dict[str, Any],
) -> None:
    """Write the page; it is one file without scripts or links to other files.

    Args:
        path: where to.
        title: the heading.
        base: the base's record, from `measure_policy`.
        policies: the customized policies' records, each with `difference` and `agreement` added.
        dial_from_base: whether strengths near 0 are policies near the base, as with α₀ = α̃. Else strength 0 is
            π₀^(α₀/α̃), and between the base and the first strength nothing lies.
        facts: name → value, listed at the end.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: it cannot be written; it names the file.
    """
    differences = [record["difference"] for record in policies]
    records = [base, *policies]
    page = page_template("evaluation.html.j2").render(
        title=title,
        strengths=[record["strength"] for record in policies],
        rows=figure_rows(differences, base),
        dial=_dial(policies, base, dial_from_base),
        judges=[line for record in records for line in _judge_lines(record)],
        agreements=[
            {
                **line,
                "strength": f"{record['strength']:g}",
                "share": _share(line["share"]),
                "kappa": _kappa(line["kappa"]),
            }
            for record in policies
            for line in record["agreement"]
        ],
        prompts=[as_messages(item["prompt"])[-1]["content"] for item in _shown(base)],
        answers={
            "base" if record is base else f"strength {record['strength']:g}": [
                item["answer"] + ("" if item["finished"] else " …") for item in _shown(record)
            ]
            for record in records
        },
        facts=facts,
    )
    write_whole(path, page)


def _dial(policies: Sequence[dict[str, Any]], base: dict[str, Any], from_base: bool) -> str:
    """Each figure of the gain against the distance to the base, along the dial; the base at distance 0.

    Empty where no gain was measured.
    """
    first = policies[0]["difference"]
    names = [name for name in first if name.startswith("judges.")] or [
        name for name in ("preference.logp_margin",) if name in first
    ]
    if not names:
        return ""
    rows = {row.label: row for row in figure_rows([{name: first[name]} for name in names], base)}
    figure, axes = subplots(len(names), (5.2 * len(names), 3.4), "eval")
    for axis, name, label in zip(axes, names, rows, strict=True):
        line: list[tuple[float, float]] = []
        before = first[name]["base"]
        if before is not None:
            if from_base:
                line.append((0.0, before))
            axis.plot(0.0, before, color=BASE, marker="o")
            axis.annotate("base", (0.0, before), xytext=(8, -11), textcoords="offset points", fontsize=8, color=BASE)
        for record in sorted(policies, key=lambda record: record["strength"]):
            gain, distance = record["difference"].get(name), record["difference"]["retention.kl_to_base"]
            if gain is None:
                continue
            x, y, shift = distance["customized"], gain["customized"], gain["base"] or 0.0
            line.append((x, y))
            axis.errorbar(
                x, y, fmt="o", color=TRAINED, elinewidth=1, capsize=2,
                # Rounding makes the length of a bar that has none a little negative.
                xerr=[[max(0.0, x - distance["low"])], [max(0.0, distance["high"] - x)]],
                yerr=[[max(0.0, y - shift - gain["low"])], [max(0.0, gain["high"] + shift - y)]],
            )  # fmt: skip
            axis.annotate(
                f"strength {record['strength']:g}", (x, y), xytext=(8, -11), textcoords="offset points", fontsize=8,
                color=BASE,
            )  # fmt: skip
        axis.plot(*zip(*line, strict=True), color=TRAINED, linewidth=1.5, zorder=1)
        square_root_scale(axis)
        axis.set_xlabel("forgetting: KL to the base (nats per token), square-root scale", fontsize=8)
        axis.set_ylabel(textwrap.fill(f"gain: {label}", _LABEL_WIDTH), fontsize=8)
        axis.margins(x=0.2, y=0.15)
    return svg(figure)


def _judge_lines(record: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    for name, judge in record.get("judges", {}).items():
        notes = [note for score, note in zip(judge["items"], judge["notes"], strict=True) if score is None]
        cost = judge["cost"] or {}
        lines.append(
            {
                "name": name,
                "strength": "base" if record["strength"] == 0 else f"{record['strength']:g}",
                "judged": judge["judged"],
                "failed": judge["failed"],
                "why": "; ".join(list(dict.fromkeys(notes))[:_SHOWN_FAILURES]),
                "cost": ", ".join(
                    f"{key.replace('_', ' ')} {value}" for key, value in cost.items() if value is not None
                ),
            }
        )
    return lines


def _shown(record: dict[str, Any]) -> list[dict[str, Any]]:
    return record["answers"]["items"][:_SHOWN_ANSWERS] if "answers" in record else []


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _kappa(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

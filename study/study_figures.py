"""What the result files of the study hold, and the figures that are made of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qadapter.compare.frontier import Point, cost_of
from qadapter.compare.scale import SQUARE_ROOT

RESULTS = Path(__file__).parent / "results"
SETS = ["academy", "business", "harmless", "politeness", "ultrafeedback"]
MORE_BASELINES = ("others", "rloo")
"""The parts that measure further baselines, each beside the best DPO."""
Results = dict[str, Any]


def load(name: str, part: str) -> Results | None:
    """A result file; None where the part has not been run."""
    path = RESULTS / f"{name}.{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def loaded(name: str, *parts: str) -> list[Results]:
    """The result files of those parts that have been run."""
    return [found for part in parts if (found := load(name, part)) is not None]


def default_of(results: Results) -> Results:
    """The line of the default preset."""
    (line,) = [line for line in results["lines"] if line["label"] == "default"]
    return line


def beside_default(name: str) -> Results | None:
    """The further baselines of a set with the default of `methods`, for one plot; None where there are none.

    The reference of every part is the same DPO: the first stands for all.
    """
    methods, parts = load(name, "methods"), loaded(name, *MORE_BASELINES)
    if methods is None or not parts:
        return None
    more = [line for part in parts[1:] for line in part["lines"] if line["label"] != part["reference"]]
    return {**parts[0], "lines": [default_of(methods), *parts[0]["lines"], *more]}


def reference_of(results: Results) -> Results:
    """The line that the others are compared with."""
    (line,) = [line for line in results["lines"] if line["label"] == results["reference"]]
    return line


def trained(line: Results) -> Results:
    """The point of strength 1."""
    (point,) = [point for point in line["points"] if point["strength"] == 1]
    return point


def point_of(point: Results, forgetting: str) -> Point:
    """A point of a line, or a run, with its forgetting measured on all neutral prompts or on some; the base has 0."""
    y = point["y"]
    return Point(point["figures"].get(forgetting, 0.0), y if isinstance(y, float) else y["value"])


def cost_of_any_dpo(results: Results, behaviour: float, forgetting: str) -> float | None:
    """The least KL at which one of the DPOs that were measured shows a behaviour; None where none does.

    One is the best along its dial, the others at strength 1: each by itself, joined with the base alone.
    """
    drawn = reference_of(results)["points"]
    runs = [run for run in results["runs"] if run["label"] == results["reference"]]
    lines = [drawn, *([drawn[0], run] for run in runs)]
    found = [cost_of([point_of(point, forgetting) for point in line], behaviour, SQUARE_ROOT) for line in lines]
    return min((x for x in found if x is not None), default=None)


def trained_vs_any_dpo(line: Results, results: Results) -> float | None:
    """The KL of the method at strength 1 ÷ the least at which any measured DPO shows its behaviour.

    None where the method gained nothing, or no DPO gains as much.
    """
    point = trained(line)
    if point["gain"]["value"] <= 0:
        return None
    theirs = cost_of_any_dpo(results, point["y"]["value"], "retention.kl_to_base")
    return point["x"]["value"] / theirs if theirs else None


def vs_any_dpo(line: Results, results: Results, forgetting: str) -> float | None:
    """The KL at which the line shows a behaviour ÷ the least at which any measured DPO shows it.

    Measured are the best learning rate along its dial and the others at strength 1. The behaviour is that of the best
    DPO at strength 1, or the highest that the line reaches where that is less. None where the line gains nothing.
    """
    if (beside := line["at_reference"]) is None:
        return None
    ours = cost_of([point_of(point, forgetting) for point in line["points"]], beside["behaviour"], SQUARE_ROOT)
    theirs = cost_of_any_dpo(results, beside["behaviour"], forgetting)
    return ours / theirs if ours is not None and theirs else None


def vs_trained(line: Results, results: Results, label: str) -> float | None:
    """The least KL at which the line shows the behaviour of another method at strength 1 ÷ that method's KL.

    None where that method gained nothing, was not measured, or its behaviour is not reached.
    """
    for other in results["lines"]:
        point = trained(other)
        if other["label"] == label and point["gain"]["value"] > 0:
            points = [point_of(one, "retention.kl_to_base") for one in line["points"]]
            ours = cost_of(points, point["y"]["value"], SQUARE_ROOT)
            return None if ours is None else ours / point["x"]["value"]
    return None


def default_beside(line: Results, results: Results, default: list[Point]) -> Results:
    """The least KL at which the default gains as much as a method ÷ that method's KL: at strength 1, along its dial.

    Args:
        line: the method.
        results: the run that it was measured in.
        default: the default's points, as gains over the base of its own run.

    Returns:
        Null where the method gains nothing, or more than the default does anywhere on its dial: `default_reaches`.
    """
    ratios: dict[float, float | None] = {}
    for point in line["points"]:
        gain = point["y"]["value"] - base_behaviour(results)
        if point["strength"] > 0 and gain > 0:
            ours = cost_of(default, gain, SQUARE_ROOT)
            ratios[point["strength"]] = None if ours is None else ours / point["x"]["value"]
    known = [ratio for ratio in ratios.values() if ratio is not None]
    return {
        "default_reaches": len(known) == len(ratios) if ratios else None,
        "kl_of_default_vs_its_own": ratios.get(1),
        "kl_of_default_vs_its_own_at_worst": max(known) if known and len(known) == len(ratios) else None,
    }


def behaviour_and_length(parts: Sequence[Results]) -> float:
    """The correlation of behaviour with the mean tokens of the answers, over all points that were measured."""
    points = [point for part in parts for line in part["lines"] for point in line["points"] if point["strength"] > 0]
    return statistics.correlation(
        [point["y"]["value"] for point in points], [point["figures"]["answers.mean_tokens"] for point in points]
    )


def gains(line: Results, results: Results) -> list[Point]:
    """The points of a line with the behaviour gained over the base."""
    return [Point(one["x"]["value"], one["y"]["value"] - base_behaviour(results)) for one in line["points"]]


def figures(line: Results, results: Results) -> Results:
    """What study/summary.json says of a method on a set."""
    point = trained(line)
    beside, drop = line["at_reference"], point.get("tasks_drop")
    return {
        "hyperparameters": line["hyperparameters"],
        "behaviour_gain": point["gain"]["value"],
        "behaviour_gain_interval": [point["gain"]["low"], point["gain"]["high"]],
        "pair_accuracy": point["figures"]["preference.accuracy"],
        "answers_repeating": point["figures"]["answers.repeating"],
        "answers_tokens": point["figures"]["answers.mean_tokens"],
        "kl_to_base": point["x"]["value"],
        "kl_to_base_documents": point["figures"]["retention.kl.document"],
        "retention_change": None if drop is None else -drop["value"],
        "retention_change_interval": None if drop is None else [-drop["high"], -drop["low"]],
        "reaches_best_dpo": None if beside is None else beside["reached"],
        "kl_vs_best_dpo_at_equal_behaviour": None if beside is None else beside["ratio"],
        "kl_vs_best_dpo_dialled_at_equal_behaviour": None if beside is None else beside["ratio_dialled"],
        "kl_vs_any_dpo_at_strength_1": trained_vs_any_dpo(line, results),
        "kl_vs_any_dpo_at_equal_behaviour": vs_any_dpo(line, results, "retention.kl_to_base"),
        "kl_documents_vs_any_dpo_at_equal_behaviour": vs_any_dpo(line, results, "retention.kl.document"),
        "kl_vs_sft_at_equal_behaviour": vs_trained(line, results, "SFT"),
        "kl_vs_replay_at_equal_behaviour": vs_trained(line, results, "Replay"),
        "area_under_frontier": line["area"],
    }


def summary() -> Results:
    """The content of study/summary.json."""
    found: Results = {}
    for name in SETS:
        parts = loaded(name, "methods", *MORE_BASELINES)
        if not parts:
            continue
        default = gains(default_of(parts[0]), parts[0])
        lines: dict[str, Results] = {}
        for part in parts:
            # DPO is in all: the one of `methods` was the best of three learning rates.
            for line in part["lines"]:
                beside = default_beside(line, part, default)
                lines.setdefault(line["label"], figures(line, part) | beside)
        found[name] = {
            "pairs": parts[0]["facts"]["pairs per run"],
            "behaviour": parts[0]["frontier_y"]["label"],
            "base_answers_repeating": parts[0]["base"]["answers.repeating"],
            "base_answers_tokens": parts[0]["base"]["answers.mean_tokens"],
            "behaviour_correlates_with_tokens": behaviour_and_length(parts),
            "judge": json.loads((RESULTS / f"{name}.judge.json").read_text(encoding="utf-8")),
            "methods": lines,
        }
    return {"made_by": "python study/summarize.py", "default": "default", "reference": "DPO", "sets": found}


def margin(results: Results) -> float:
    """The base's log-probability margin on the held-out pairs."""
    return results["base"]["preference.logp_margin"]


def base_behaviour(results: Results) -> float:
    """What the judge gives to the base's answers."""
    return results["lines"][0]["points"][0]["y"]["value"]

"""The figures of the study that are made of its result files: study/summary.json."""

from __future__ import annotations

import json
import statistics

from study_lines import (
    RESULTS,
    SETS,
    Results,
    all_methods,
    base_behaviour,
    dial_of,
    line_of,
    margin,
    point_of,
    reference_of,
    trained,
)

from qadapter.compare.frontier import Dial, cost_of
from qadapter.compare.scale import SQUARE_ROOT


def cost_of_any_dpo(results: Results, behaviour: float, forgetting: str) -> float | None:
    """The least KL at which one of the DPOs that were measured shows a behaviour; None where none does.

    One is the best along its dial, the others at strength 1: each by itself, joined with the base alone.
    """
    best = dial_of(reference_of(results), forgetting)
    runs = [run for run in results["runs"] if run["label"] == results["reference"]]
    dials = [best, *(Dial([best.points[0], point_of(run, forgetting)]) for run in runs)]
    found = [cost_of(dial, behaviour, SQUARE_ROOT) for dial in dials]
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
    ours = cost_of(dial_of(line, forgetting), beside["behaviour"], SQUARE_ROOT)
    theirs = cost_of_any_dpo(results, beside["behaviour"], forgetting)
    return ours / theirs if ours is not None and theirs else None


def vs_trained(line: Results, results: Results, label: str) -> float | None:
    """The least KL at which the line shows the behaviour of another method at strength 1 ÷ that method's KL.

    None where that method gained nothing, was not measured, or its behaviour is not reached.
    """
    for other in results["lines"]:
        point = trained(other)
        if other["label"] == label and point["gain"]["value"] > 0:
            ours = cost_of(dial_of(line), point["y"]["value"], SQUARE_ROOT)
            return None if ours is None else ours / point["x"]["value"]
    return None


def cost_of_default(line: Results, results: Results) -> dict[float, float | None]:
    """The least KL at which the default gains as much as a method ÷ that method's KL, by the strength of the method.

    None where it gains more than the default does anywhere on its dial; strengths at which it gains nothing are absent.
    """
    default = dial_of(line_of(results, "default"))
    ratios: dict[float, float | None] = {}
    for point in line["points"]:
        if point["strength"] > 0 and point["y"]["value"] > base_behaviour(results):
            ours = cost_of(default, point["y"]["value"], SQUARE_ROOT)
            ratios[point["strength"]] = None if ours is None else ours / point["x"]["value"]
    return ratios


def default_beside(line: Results, results: Results) -> Results:
    """What `cost_of_default` says of a method at strength 1, and at worst along its dial.

    Returns:
        Null where the method gains nothing, or more than the default does anywhere on its dial: `default_reaches`.
    """
    ratios = cost_of_default(line, results)
    known = [ratio for ratio in ratios.values() if ratio is not None]
    return {
        "default_reaches": len(known) == len(ratios) if ratios else None,
        "kl_of_default_vs_its_own": ratios.get(1),
        "kl_of_default_vs_its_own_at_worst": max(known) if known and len(known) == len(ratios) else None,
    }


def behaviour_and_length(results: Results) -> float:
    """The correlation of behaviour with the mean tokens of the answers, over all points that were measured."""
    points = [point for line in results["lines"] for point in line["points"] if point["strength"] > 0]
    return statistics.correlation(
        [point["y"]["value"] for point in points], [point["figures"]["answers.mean_tokens"] for point in points]
    )


def figures(line: Results, results: Results) -> Results:
    """What study/summary.json says of a method on a set."""
    point = trained(line)
    beside, drop = line["at_reference"], point.get("tasks_drop")
    return {
        "hyperparameters": line["hyperparameters"],
        "behaviour_gain": point["gain"]["value"],
        "behaviour_gain_interval": [point["gain"]["low"], point["gain"]["high"]],
        "pair_accuracy": point["figures"]["preference.accuracy"],
        "logp_margin_gain": point["figures"]["preference.logp_margin"] - margin(results),
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
        if (results := all_methods(name)) is None:
            continue
        found[name] = {
            "pairs": results["facts"]["pairs per run"],
            "behaviour": results["frontier_y"]["label"],
            "base_answers_repeating": results["base"]["answers.repeating"],
            "base_answers_tokens": results["base"]["answers.mean_tokens"],
            "behaviour_correlates_with_tokens": behaviour_and_length(results),
            "judge": json.loads((RESULTS / f"{name}.judge.json").read_text(encoding="utf-8")),
            "methods": {
                line["label"]: figures(line, results) | default_beside(line, results) for line in results["lines"]
            },
        }
    return {"made_by": "python study/summarize.py", "default": "default", "reference": "DPO", "sets": found}

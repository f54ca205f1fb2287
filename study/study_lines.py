"""What the result files of the study hold: the lines of each set, all beside one base and one DPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qadapter.compare.frontier import Dial, Point, area_under
from qadapter.compare.frontier_figures import frontier_figures
from qadapter.compare.scale import SQUARE_ROOT

RESULTS = Path(__file__).parent / "results"
SETS = ["academy", "business", "harmless", "politeness", "ultrafeedback"]
MORE_BASELINES = ("others", "rloo")
"""The parts that measure further baselines, each with a base and a DPO of its own."""
Results = dict[str, Any]


def load(name: str, part: str) -> Results | None:
    """A result file; None where the part has not been run."""
    path = RESULTS / f"{name}.{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def loaded(name: str, *parts: str) -> list[Results]:
    """The result files of those parts that have been run."""
    return [found for part in parts if (found := load(name, part)) is not None]


def all_methods(name: str) -> Results | None:
    """The part `methods` of a set with the lines of the further baselines; None where it has not been run."""
    methods = load(name, "methods")
    if methods is None:
        return None
    more = [
        beside(methods, line, part)
        for part in loaded(name, *MORE_BASELINES)
        for line in part["lines"]
        if line["label"] != part["reference"]
    ]
    return {**methods, "lines": [*methods["lines"], *more]}


def beside(methods: Results, line: Results, part: Results) -> Results:
    """A line of another run, beside the base and the DPO of `methods`.

    On another CPU or in another precision the same base answers some prompts in other words. What a method gains is
    measured against the base of its own run; here that gain is put on top of what the base of `methods` got.
    """
    higher = base_behaviour(methods) - base_behaviour(part)
    wider = margin(methods) - margin(part)
    points = []
    for point in line["points"]:
        found = {**point["figures"], "preference.logp_margin": point["figures"]["preference.logp_margin"] + wider}
        points.append({**point, "y": {key: y + higher for key, y in point["y"].items()}, "figures": found})
    moved, dpo = {**line, "points": points}, reference_of(methods)
    return {
        **moved,
        **frontier_figures(dial_of(moved), dial_of(dpo), point_of(trained(dpo)), SQUARE_ROOT),
        "area": area_under(dial_of(moved), methods["x_limit"], SQUARE_ROOT),
    }


def beside_default(name: str) -> Results | None:
    """The further baselines of a set with the default and DPO, for one plot; None where there are none."""
    methods, results = load(name, "methods"), all_methods(name)
    if methods is None or results is None or len(results["lines"]) == len(methods["lines"]):
        return None
    left_out = {line["label"] for line in methods["lines"]} - {"default", methods["reference"]}
    return {**results, "lines": [line for line in results["lines"] if line["label"] not in left_out]}


def line_of(results: Results, label: str) -> Results:
    """The line with a label."""
    (line,) = [line for line in results["lines"] if line["label"] == label]
    return line


def reference_of(results: Results) -> Results:
    """The line that the others are compared with."""
    return line_of(results, results["reference"])


def trained(line: Results) -> Results:
    """The point of strength 1."""
    (point,) = [point for point in line["points"] if point["strength"] == 1]
    return point


def point_of(point: Results, forgetting: str = "retention.kl_to_base") -> Point:
    """A point of a line, or a run, with its forgetting measured on all neutral prompts or on some; the base has 0."""
    y = point["y"]
    return Point(point["figures"].get(forgetting, 0.0), y if isinstance(y, float) else y["value"])


def dial_of(line: Results, forgetting: str = "retention.kl_to_base") -> Dial:
    """The dial of a line."""
    return Dial([point_of(point, forgetting) for point in line["points"]], line["dial_from_base"])


def margin(results: Results) -> float:
    """The base's log-probability margin on the held-out pairs."""
    return results["base"]["preference.logp_margin"]


def base_behaviour(results: Results) -> float:
    """What the judge gives to the base's answers."""
    return results["lines"][0]["points"][0]["y"]["value"]

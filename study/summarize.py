"""From study/results/*.json: study/summary.json, the plots of docs/study.md, and its tables.

python study/summarize.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qadapter.compare.frontier import Point, cost_of
from qadapter.compare.plot import frontier_png

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, PLOTS = ROOT / "study" / "results", ROOT / "docs" / "study.md", ROOT / "docs" / "study"
SETS = ["academy", "business", "harmless", "politeness", "ultrafeedback"]
NAMES = {
    "academy": "DSP academy", "business": "DSP business", "harmless": "HH harmless", "politeness": "politeness",
    "ultrafeedback": "UltraFeedback",
}  # fmt: skip
Results = dict[str, Any]


def load(name: str, part: str) -> Results | None:
    """A result file; None where the part has not been run."""
    path = RESULTS / f"{name}.{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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
    found = [cost_of([point_of(point, forgetting) for point in line], behaviour) for line in lines]
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
    ours = cost_of([point_of(point, forgetting) for point in line["points"]], beside["behaviour"])
    theirs = cost_of_any_dpo(results, beside["behaviour"], forgetting)
    return ours / theirs if ours is not None and theirs else None


def vs_trained(line: Results, results: Results, label: str) -> float | None:
    """The least KL at which the line shows the behaviour of another method at strength 1 ÷ that method's KL.

    None where that method gained nothing, was not measured, or its behaviour is not reached.
    """
    for other in results["lines"]:
        point = trained(other)
        if other["label"] == label and point["gain"]["value"] > 0:
            ours = cost_of([point_of(one, "retention.kl_to_base") for one in line["points"]], point["y"]["value"])
            return None if ours is None else ours / point["x"]["value"]
    return None


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
        parts = [part for part in (load(name, "methods"), load(name, "others")) if part is not None]
        if not parts:
            continue
        lines = {line["label"]: figures(line, part) for part in reversed(parts) for line in part["lines"]}
        found[name] = {
            "pairs": parts[0]["facts"]["pairs per run"],
            "behaviour": parts[0]["frontier_y"]["label"],
            "base_answers_repeating": parts[0]["base"]["answers.repeating"],
            "judge": json.loads((RESULTS / f"{name}.judge.json").read_text(encoding="utf-8")),
            "methods": lines,
        }
    return {"made_by": "python study/summarize.py", "default": "default", "reference": "DPO", "sets": found}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def number(value: float | None, form: str = ".3f") -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else format(value, form)


def points_of(change: float | None, interval: list[float] | None) -> str:
    """A change of a share in points, with its interval."""
    if change is None or interval is None:
        return "–"
    return f"{100 * change:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def methods_part(of: Results) -> str:
    """One table per set, and the plot."""
    parts = []
    for name, found in of["sets"].items():
        rows = [
            [
                label,
                f"{one['behaviour_gain']:+.2f} [{one['behaviour_gain_interval'][0]:+.2f}, "
                f"{one['behaviour_gain_interval'][1]:+.2f}]",
                f"{one['answers_repeating']:.0%}",
                number(one["pair_accuracy"], ".2f"),
                number(one["kl_to_base"], ".4f"),
                number(one["kl_vs_best_dpo_at_equal_behaviour"], ".2f"),
                number(one["kl_vs_any_dpo_at_strength_1"], ".2f"),
                number(one["kl_vs_any_dpo_at_equal_behaviour"], ".2f"),
                number(one["kl_documents_vs_any_dpo_at_equal_behaviour"], ".2f"),
                number(one["kl_vs_sft_at_equal_behaviour"], ".2f"),
                points_of(one["retention_change"], one["retention_change_interval"]),
            ]
            for label, one in found["methods"].items()
        ]
        head = ["method", "behaviour gained", "answers in a loop", "pair accuracy", "KL to the base", "KL ÷ DPO's",
                "÷ any DPO's at 1", "÷ any DPO's at most", "the same on documents", "KL ÷ SFT's",
                "benchmarks, points"]  # fmt: skip
        parts += [
            f"### {NAMES[name]}",
            f"{found['pairs']} pairs. The judge ranks {found['judge']['accuracy']:.0%} of the held-out pairs as their "
            f"labels do; to their chosen responses it gives {found['judge']['chosen']:.2f}, to the rejected "
            f"{found['judge']['rejected']:.2f}. Of the base's answers {found['base_answers_repeating']:.0%} end "
            "in a loop.",
            table(head, rows),
            f"![Frontier: behaviour against forgetting on {NAMES[name]}](study/{name}.png)",
        ]
    return "\n\n".join(parts)


def variants_part(part: str) -> str:
    """One table per set: what differs in a constant, at strength 1."""
    parts = []
    for name in SETS:
        if (results := load(name, part)) is None:
            continue
        rows = []
        for line in results["lines"]:
            one = figures(line, results)
            rows.append(
                [
                    line["label"],
                    f"{one['behaviour_gain']:+.2f} [{one['behaviour_gain_interval'][0]:+.2f}, "
                    f"{one['behaviour_gain_interval'][1]:+.2f}]",
                    f"{one['answers_repeating']:.0%}",
                    number(one["pair_accuracy"], ".2f"),
                    f"{trained(line)['figures']['preference.logp_margin'] - margin(results):+.1f}",
                    number(one["kl_to_base"], ".4f"),
                    number(trained(line)["figures"]["retention.kl.document"], ".4f"),
                ]
            )
        head = ["", "behaviour gained", "answers in a loop", "pair accuracy", "log-prob margin gained",
                "KL to the base", "on documents"]  # fmt: skip
        parts += [f"### {NAMES[name]}", table(head, rows)]
    return "\n\n".join(parts)


def margin(results: Results) -> float:
    """The base's log-probability margin on the held-out pairs."""
    return results["base"]["preference.logp_margin"]


def reach_part() -> str:
    """One table per set: what a stronger dial or longer training reaches."""
    parts = []
    for name in SETS:
        if (results := load(name, "reach")) is None:
            continue
        strengths = [point["strength"] for point in results["lines"][0]["points"] if point["strength"]]
        rows = []
        for line in results["lines"]:
            one = figures(line, results)
            rows.append(
                [
                    line["label"],
                    *(f"{p['gain']['value']:+.2f} at {p['x']['value']:.3f}" for p in line["points"] if p["strength"]),
                    number(one["kl_vs_best_dpo_at_equal_behaviour"], ".2f"),
                    number(one["kl_vs_best_dpo_dialled_at_equal_behaviour"], ".2f"),
                ]
            )
        head = ["", *(f"strength {strength:g}" for strength in strengths), "KL ÷ DPO's", "÷ DPO's dialled, at most"]
        parts += [f"### {NAMES[name]}", table(head, rows)]
    return "\n\n".join(parts)


def noise_part() -> str:
    """One table per set: flipped labels."""
    parts = []
    for name in SETS:
        if (results := load(name, "noise")) is None:
            continue
        rows = [
            [
                line["label"].split(",")[0],
                f"{line['label_noise']:.0%}",
                number(trained(line)["figures"]["preference.accuracy"], ".3f"),
                f"{trained(line)['gain']['value']:+.2f}",
                number(trained(line)["x"]["value"], ".4f"),
            ]
            for line in results["lines"]
        ]
        head = ["method", "labels flipped", "pair accuracy", "behaviour gained", "KL to the base"]
        parts += [f"### {NAMES[name]}", table(head, rows), f"Means over seeds {results['facts']['seeds']}."]
    return "\n\n".join(parts)


def cost_part() -> str:
    """What each method costs."""
    parts = []
    for name in SETS:
        if (results := load(name, "cost")) is None:
            continue
        rows = []
        for line in results["lines"]:
            cost = line["cost"]
            parts_of_time = cost["train_seconds_by_part"]
            rows.append(
                [
                    line["label"],
                    f"{parts_of_time['training'] / cost['pairs']:.2f}",
                    f"{sum(parts_of_time.values()) - parts_of_time['training']:.0f}",
                    f"{cost['peak_memory_bytes'] / 1e9:.1f}",
                    *(f"{value:.2f}" for value in cost["decode_time_vs_base"].values()),
                    f"{cost['adapter_bytes'] / 1e6:.1f}",
                ]
            )
        head = ["method", "training, s per pair", "before training, s", "peak memory, GB", "decoding at 0.5, ÷ base",
                "at 1, ÷ base", "adapter, MB"]  # fmt: skip
        parts += [f"On {NAMES[name]}, {results['facts']['pairs per run']} pairs:", table(head, rows)]
    return "\n\n".join(parts)


def plots() -> None:
    """The frontier of each set."""
    PLOTS.mkdir(exist_ok=True)
    for name in SETS:
        if (results := load(name, "methods")) is not None:
            frontier_png(results, PLOTS / f"{name}.png")


def page(text: str) -> str:
    """The page with its tables made anew."""
    made = {
        "methods": methods_part(summary()),
        "constants": variants_part("constants"),
        "cut": variants_part("cut"),
        "reach": reach_part(),
        "noise": noise_part(),
        "cost": cost_part(),
    }
    for part, content in made.items():
        start, end = f"<!-- {part}: made by `python study/summarize.py` -->", f"<!-- end of {part} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n\n{content}\n\n{end}{after}"
    return text


def main() -> None:
    """Write all of it."""
    (ROOT / "study" / "summary.json").write_text(json.dumps(summary(), indent=1) + "\n", encoding="utf-8")
    plots()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

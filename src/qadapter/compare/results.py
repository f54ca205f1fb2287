"""All that a comparison found, as one JSON value: what the report shows and scripts read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluate import Interval
from ..evaluate.judges.cost import Cost
from .axes import axis_label, behaviour, forgetting, gained
from .frontier import Dial, Point, area_under
from .frontier_figures import frontier_figures
from .frontier_interval import DrawnDial, frontier_intervals
from .interval import Draw, over_prompts_and_seeds, resampled
from .methods import Line
from .mixed_code import in_words, mixed_code
from .plan import Plan
from .running import CandidateResult, Comparison, LineResult
from .scale import scale_of

_Record = dict[str, Any]


def compare_results(plan: Plan, comparison: Comparison) -> dict[str, Any]:
    """The results.

    Returns:
        frontier_x, frontier_y  {name, label} of the axes; x is forgetting, y behaviour
        reference, x_limit      the label of the line that others are compared with; the limit of the areas
        base                    figures of the base
        lines                   one per line of the frontier: label, method, hyperparameters (of the best candidate, as
                                given), trained_with (all of them, defaults included), at_edge (see `_at_edge`),
                                interpolation, label_noise, dial_from_base (see `Dial`), points [{strength, x, y,
                                figures}] with {value, low, high} each and the base first, area, area_by_seed,
                                equal_behaviour, at_reference, intervals (of area and ratios), cost.
                                Points but the base's have also gain, y less the base's, paired by prompt; where tasks
                                were measured tasks_drop, the mean drop of those in which more is better
        runs                    one per training run, those of sweeps included: label, hyperparameters, seed, drawn, and
                                its figures at strength 1; null or absent where a diverged run has no number
        judging                 judge → what its server was asked for all finished measurements (see `Cost`)
        facts                   what the comparison was made with, and the seconds that its jobs took

        For equal_behaviour and at_reference see `frontier_figures`, for intervals `frontier_intervals`.
    """
    arguments = plan.arguments
    by_label = {result.line.label: result for result in comparison.lines}
    reference = by_label[plan.reference.label]
    dials = {label: _mean_dial(plan, comparison.base, result) for label, result in by_label.items()}
    drawn = {label: _drawn_dial(plan, comparison.base, result) for label, result in by_label.items()}
    at_one = sorted(reference.records).index(1.0)
    trained = dials[plan.reference.label].points[1 + at_one]
    scale, draw = scale_of(arguments.frontier_x), Draw(plan.evaluation.seed)
    judging = _judging(plan, comparison)
    limit = arguments.x_limit if arguments.x_limit is not None else trained.x
    return {
        "frontier_x": {"name": arguments.frontier_x, "label": axis_label(arguments.frontier_x)},
        "frontier_y": {"name": plan.frontier_y, "label": axis_label(plan.frontier_y)},
        "reference": plan.reference.label,
        "x_limit": limit,
        "base": _figures([comparison.base], comparison.base),
        "lines": [
            {
                **_line(plan, comparison.base, result, limit),
                **frontier_figures(dials[label], dials[plan.reference.label], trained, scale),
                "intervals": frontier_intervals(drawn[label], drawn[plan.reference.label], at_one, limit, scale, draw),
                "cost": _cost(result),
            }
            for label, result in by_label.items()
        ],
        "runs": [run for result in comparison.lines for run in _runs(plan, comparison.base, result)],
        "judging": judging,
        "facts": _facts(plan, comparison, judging),
    }


def _line(plan: Plan, base: _Record, result: LineResult, limit: float) -> dict[str, Any]:
    best = result.candidates[result.best]
    start = Point(0.0, behaviour(base, plan.frontier_y).value)
    mean = _mean_dial(plan, base, result)
    per_seed = [
        mean._replace(
            points=[start, *(_point(plan, base, records[number]) for _, records in sorted(result.records.items()))]
        )
        for number in range(len(plan.arguments.seeds))
    ]
    scale = scale_of(plan.arguments.frontier_x)
    return {
        "label": result.line.label,
        "method": result.line.method,
        "hyperparameters": best.hyperparameters,
        "trained_with": plan.runs[result.line.label, result.best][0].inputs["hyperparameters"],
        "at_edge": _at_edge(result.line, best.hyperparameters),
        "interpolation": result.line.interpolation,
        "label_noise": result.line.label_noise,
        "dial_from_base": mean.from_base,
        "points": [
            _interval_point(plan, base, strength, records)
            for strength, records in sorted([(0.0, [base]), *result.records.items()])
        ],
        # Nothing was forgotten by the reference: there is no budget to take an area over.
        "area": area_under(mean, limit, scale) if limit > 0 else None,
        "area_by_seed": [area_under(one, limit, scale) for one in per_seed] if limit > 0 else None,
    }


def _at_edge(line: Line, best: dict[str, Any]) -> list[str]:
    """The swept numbers of which the smallest or the largest was best: a wider sweep may find a better one."""
    tried = {name: [candidate[name] for candidate in line.candidates] for name in line.swept}
    return [
        name
        for name, values in tried.items()
        if all(isinstance(value, int | float) for value in values) and best[name] in (min(values), max(values))
    ]


def _interval_point(plan: Plan, base: _Record, strength: float, records: Sequence[_Record]) -> dict[str, Any]:
    of_y, of_x = Draw(plan.evaluation.seed), Draw(plan.evaluation.seed, items_of=1)
    y = over_prompts_and_seeds([behaviour(record, plan.frontier_y) for record in records], of_y)
    shift = statistics.fmean(_point(plan, base, record).y for record in records) - y.value
    y = Interval(*(end + shift for end in y))
    x = over_prompts_and_seeds([forgetting(record, base, plan.arguments.frontier_x) for record in records], of_x)
    point = {"strength": strength, "x": x._asdict(), "y": y._asdict(), "figures": _figures(records, base)}
    if strength != 0:
        gain = over_prompts_and_seeds([gained(record, base, plan.frontier_y) for record in records], of_y)
        point["gain"] = gain._asdict()
    if strength != 0 and any(task["higher_is_better"] for task in records[0].get("tasks", {}).values()):
        drop = over_prompts_and_seeds([forgetting(record, base, "tasks") for record in records], of_x)
        point["tasks_drop"] = drop._asdict()
    return point


def _point(plan: Plan, base: _Record, record: _Record) -> Point:
    """A record on both axes. y is the base's and what was gained on the prompts that were judged for both."""
    start = behaviour(base, plan.frontier_y).value
    return Point(
        forgetting(record, base, plan.arguments.frontier_x).value, start + gained(record, base, plan.frontier_y).value
    )  # fmt: skip


def _from_base(plan: Plan, result: LineResult) -> bool:
    """Whether the dial begins at the base: baselines' does, ours where α₀ = α̃ (see `core.policy_mixture`)."""
    constants = plan.runs[result.line.label, result.best][0].inputs["hyperparameters"]
    return bool(constants.get("alpha_0") == constants.get("alpha_tilde"))


def _mean_dial(plan: Plan, base: _Record, result: LineResult) -> Dial:
    """The line's points, means over seeds."""
    points = [Point(0.0, behaviour(base, plan.frontier_y).value)]
    for _, records in sorted(result.records.items()):
        found = [_point(plan, base, record) for record in records]
        points.append(Point(statistics.fmean(p.x for p in found), statistics.fmean(p.y for p in found)))
    return Dial(points, _from_base(plan, result))


def _drawn_dial(plan: Plan, base: _Record, result: LineResult) -> DrawnDial:
    """The line on resamples: the same prompts and seeds for every line."""
    by_strength = [records for _, records in sorted(result.records.items())]
    of_x, of_gain = Draw(plan.evaluation.seed, items_of=1), Draw(plan.evaluation.seed)
    x, gain = [], []
    for records in by_strength:
        x.append(resampled([forgetting(record, base, plan.arguments.frontier_x) for record in records], of_x))
        gain.append(resampled([gained(record, base, plan.frontier_y) for record in records], of_gain))
    return DrawnDial(np.stack(x), np.stack(gain), _from_base(plan, result))


def _figures(records: Sequence[_Record], base: _Record) -> dict[str, Any]:
    """Means over seeds of what the tables show."""
    found: dict[str, list[float]] = {}

    def add(name: str, value: float | None) -> None:
        # What a diverged candidate has is no number, and JSON has no word for it.
        if value is not None and math.isfinite(value):
            found.setdefault(name, []).append(value)

    for record in records:
        for name in ("accuracy", "logp_margin", "logp_chosen"):
            add(f"preference.{name}", record["preference"][name])
        for name, judge in record.get("judges", {}).items():
            add(f"judges.{name}", judge["score"])
            add(f"judges_failed.{name}", judge["failed"])
        add("retention.kl_to_base", record["retention"]["kl_to_base"])
        add("retention.top1_agreement", record["retention"]["top1_agreement"])
        for kind, value in record["retention"]["kl_by_kind"].items():
            add(f"retention.kl.{kind}", value)
        if "text" in record:
            add("text.nats_per_token", record["text"]["nats_per_token"])
        for name, task in record.get("tasks", {}).items():
            add(f"tasks.{name}", task["value"])
        if "answers" in record:
            add("answers.finished", record["answers"]["finished"])
            add("answers.repeating", record["answers"]["repeating"])
            add("answers.mean_tokens", record["answers"]["mean_tokens"])
    return {name: statistics.fmean(values) for name, values in found.items()}


def _cost(result: LineResult) -> dict[str, Any]:
    """What the drawn candidate cost, means over seeds; the peak is that of the most hungry."""
    best: CandidateResult = result.candidates[result.best]
    seconds = [sum(facts["seconds"].values()) for facts in best.facts]
    return {
        "train_seconds": statistics.fmean(seconds),
        "train_seconds_by_part": {
            part: statistics.fmean(facts["seconds"][part] for facts in best.facts) for part in best.facts[0]["seconds"]
        },
        "pairs": best.facts[0]["pairs"],
        "peak_memory_bytes": max(facts["peak_memory_bytes"] for facts in best.facts),
        "peak_memory_of": best.facts[0]["peak_memory_of"],
        "trained_parameters": best.facts[0]["trained_parameters"],
        "adapter_bytes": best.facts[0]["adapter_bytes"],
        "decode_time_vs_base": {
            f"{strength:g}": statistics.fmean(record["decoding"]["vs_base"] for record in records)
            for strength, records in sorted(result.records.items())
            if "decoding" in records[0]
        },
    }


def _runs(plan: Plan, base: _Record, result: LineResult) -> list[dict[str, Any]]:
    return [
        {
            "label": result.line.label,
            "hyperparameters": candidate.hyperparameters,
            "swept": list(result.line.swept),
            "seed": seed,
            "drawn": number == result.best,
            **{
                axis: value if math.isfinite(value) else None
                for axis, value in _point(plan, base, record)._asdict().items()
            },
            "figures": _figures([record], base),
            **{key: facts[key] for key in ("seconds", "pairs", "peak_memory_bytes", "adapter_bytes", "warnings")},
        }
        for number, candidate in enumerate(result.candidates)
        for seed, facts, record in zip(plan.arguments.seeds, candidate.facts, candidate.records, strict=True)
    ]


def _judging(plan: Plan, comparison: Comparison) -> dict[str, dict[str, Any]]:
    """The costs of all measurements, those of sweeps included, summed; `usd` is None without prices.

    Lines that share a run share its measurement, which is counted once.
    """
    measured = {plan.base_name: comparison.base}
    for result in comparison.lines:
        for number, candidate in enumerate(result.candidates):
            runs = plan.runs[result.line.label, number]
            of_strengths = result.records if number == result.best else {1.0: candidate.records}
            for strength, records in of_strengths.items():
                names = [plan.record_name(run, result.line, strength) for run in runs]
                measured |= zip(names, records, strict=True)
    found: dict[str, Cost] = {}
    for record in measured.values():
        for name, judge in record.get("judges", {}).items():
            if judge["cost"] is not None:
                counts = {key: value for key, value in judge["cost"].items() if key != "usd"}
                found.setdefault(name, Cost()).add(Cost(**counts))
    prices = plan.judging.judge_price_in, plan.judging.judge_price_out
    return {name: cost.report(*prices) for name, cost in found.items()}


def _facts(plan: Plan, comparison: Comparison, judging: dict[str, dict[str, Any]]) -> dict[str, Any]:
    base = comparison.base
    cut = base["preference"].get("cut_responses")  # records of before it was noted lack it
    common, evaluation = plan.common, plan.evaluation
    mixed = mixed_code(comparison.codes, comparison.libraries)
    return {
        "base model": common.model,
        "dtype": common.dtype,
        "training pairs": common.train_file,
        "pairs per run": plan.usable_pairs,
        "held-out pairs": f"{evaluation.preference_file} ({len(plan.inputs.pairs or [])})"
        + (f", {cut} of their responses cut at max_length" if cut else ""),
        "prompts answered": base["answers"]["prompts"] if "answers" in base else 0,
        "neutral prompts": f"{evaluation.neutral_file or 'of the project'} ({len(plan.inputs.neutral)})",
        "epochs": common.num_train_epochs,
        "pairs per step": common.per_device_train_batch_size * common.gradient_accumulation_steps,
        "max_length": common.max_length,
        "LoRA": f"r={common.lora_r}, alpha={common.lora_alpha}, dropout={common.lora_dropout:g}, "
        f"modules {common.lora_target_modules or 'all linear layers but the LM head'}",
        "schedule": f"{common.lr_scheduler_type}, warm-up {common.warmup_steps:g}",
        "seeds": ", ".join(map(str, plan.arguments.seeds)),
        **{f"judge {name}": _in_words(cost) for name, cost in judging.items()},
        "seconds of all jobs": round(sum(comparison.seconds.values()), 2),
        **{f"seconds of jobs, {kind}": round(seconds, 2) for kind, seconds in comparison.seconds.items()},
        "qadapter": ", ".join(comparison.versions),
        "code": ", ".join(comparison.codes),
        **({"libraries": in_words(comparison.libraries)} if comparison.libraries else {}),
        **({} if mixed is None else {"mixed code": mixed}),
    }


def _in_words(cost: dict[str, Any]) -> str:
    words = [
        f"{cost[key]} {key.replace('_', ' ')}" for key in ("requests", "cached", "retries", "asked_again", "failed")
    ]
    return ", ".join([*words, *([] if cost["usd"] is None else [f"${cost['usd']:.2f}"])])

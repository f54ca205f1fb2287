"""A customized policy beside the base, figure by figure, with the interval of each difference."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from .judges import agreement
from .statistics import Interval, bootstrap_difference, bootstrap_mean, clustered, mean_of_means

_Figure = dict[str, float | int | None]


def difference_to_base(
    record: dict[str, Any], base: dict[str, Any], *, seed: int = 0, resamples: int = 2000
) -> dict[str, _Figure]:
    """What changed against the base, with 95 % intervals from a bootstrap over the items that both were measured on.

    | figure | items | base value |
    |---|---|---|
    | `preference.accuracy`, `preference.margin` | pairs; those of one prompt are drawn together | – |
    | `preference.logp_margin`, `preference.logp_chosen` | the same | yes |
    | `answers.finished`, `answers.repeating`, `answers.mean_tokens` | prompts | yes |
    | `judges.<name>` | prompts that the judge scored for both | yes, but for a judge that compares with the base |
    | `retention.kl_to_base`, `retention.top1_agreement` | prompts, weighted by tokens | – |
    | `retention.kl.<kind>` | prompts of the kind, weighted by tokens | – |
    | `text.nats_per_token` | documents, weighted by tokens | yes |
    | `tasks.<name>` | questions | yes |
    | `tasks.mean` | questions within their tasks | yes |

    `tasks.mean` is over tasks in which more is better, and absent with fewer than two.

    Args:
        record: of the customized policy, from `measure_policy`.
        base: of the base, from `measure_policy` with the same arguments.
        seed: of the resampling.
        resamples: number of bootstrap samples.

    Returns:
        figure → {base, customized, difference, low, high, items}. `low` and `high` are the ends of the interval of the
        difference; where the base has no value, `base` and `difference` are None and they are those of the figure
        itself. A figure whose items are none (no answer could be judged) is absent.

    Raises:
        ValueError: the two records were not measured on the same items.
    """
    draw: dict[str, Any] = {"seed": seed, "resamples": resamples}
    found: dict[str, _Figure] = {}

    def alone(name: str, values: Sequence[float], weights: Sequence[float] | None = None) -> None:
        if values:
            found[name] = _alone(bootstrap_mean(values, weights=weights, **draw), len(values))

    def paired(
        name: str, ours: Sequence[float | None], theirs: Sequence[float | None], weights: Sequence[float] | None = None
    ) -> None:
        both = [(a, b) for a, b in _zipped(name, theirs, ours) if a is not None and b is not None]
        if both:
            before, after = zip(*both, strict=True)
            mean = bootstrap_mean(before, weights=weights, seed=seed, resamples=1).value
            found[name] = _paired(mean, bootstrap_difference(before, after, weights=weights, **draw), len(both))

    if "preference" in record:
        items, base_items = record["preference"]["items"], base["preference"]["items"]
        of_prompts = items["prompt"]
        alone("preference.accuracy", *clustered([0.5 + 0.5 * ((m > 0) - (m < 0)) for m in items["margin"]], of_prompts))
        alone("preference.margin", *clustered(items["margin"], of_prompts))
        for key in ("logp_margin", "logp_chosen"):
            (ours, pairs), (theirs, _) = (clustered(one[key], one["prompt"]) for one in (items, base_items))
            paired(f"preference.{key}", ours, theirs, pairs)
        for name in found:
            found[name]["items"] = len(of_prompts)
    if "answers" in record:
        for figure, key in (("finished", "finished"), ("repeating", "repeating"), ("mean_tokens", "tokens")):
            ours, theirs = ([float(item[key]) for item in one["answers"]["items"]] for one in (record, base))
            paired(f"answers.{figure}", ours, theirs)
    for name, judged in record.get("judges", {}).items():
        if name in base.get("judges", {}):
            paired(f"judges.{name}", judged["items"], base["judges"][name]["items"])
        else:
            alone(f"judges.{name}", [score for score in judged["items"] if score is not None])
    if "retention" in record:
        prompts = record["retention"]["items"]
        for figure, key in (("kl_to_base", "kl"), ("top1_agreement", "top1_agreement")):
            alone(f"retention.{figure}", [p[key] for p in prompts], [p["tokens"] for p in prompts])
        for kind in record["retention"]["kl_by_kind"]:
            of_kind = [p for p in prompts if p["kind"] == kind]
            alone(f"retention.kl.{kind}", [p["kl"] for p in of_kind], [p["tokens"] for p in of_kind])
    if "text" in record:
        tokens = [item["tokens"] for item in record["text"]["items"]]
        ours, theirs = (
            [item["nats"] / item["tokens"] for item in one["text"]["items"]] for one in (record, base)
        )  # fmt: skip
        paired("text.nats_per_token", ours, theirs, tokens)
    if "tasks" in record:
        tasks = {name: (base["tasks"][name]["items"], task["items"]) for name, task in record["tasks"].items()}
        for name, (before, after) in tasks.items():
            paired(f"tasks.{name}", after, before)
        better_is_more = [name for name in tasks if record["tasks"][name]["higher_is_better"]]
        if len(better_is_more) > 1:
            befores = [tasks[name][0] for name in better_is_more]
            differences = [[b - a for a, b in _zipped(name, *tasks[name])] for name in better_is_more]
            mean = mean_of_means(befores, seed=seed, resamples=1).value
            interval = mean_of_means(differences, **draw)
            found["tasks.mean"] = _paired(mean, interval, sum(map(len, differences)))
    return found


def is_finite(record: dict[str, Any]) -> bool:
    """Whether the figures of a policy are numbers; those of an adapter that diverged in training are not."""
    figures = [record["retention"]["kl_to_base"]]
    if "preference" in record:
        figures += [record["preference"]["margin"], record["preference"]["logp_margin"]]
    return all(map(math.isfinite, figures))


def _alone(interval: Interval, items: int) -> _Figure:
    return {
        "base": None, "customized": interval.value, "difference": None,
        "low": interval.low, "high": interval.high, "items": items,
    }  # fmt: skip


def _paired(base: float, difference: Interval, items: int) -> _Figure:
    return {
        "base": base, "customized": base + difference.value, "difference": difference.value,
        "low": difference.low, "high": difference.high, "items": items,
    }  # fmt: skip


def _zipped(name: str, one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(one) != len(other):
        raise ValueError(f"{name} was measured on {len(one)} items for the base and on {len(other)} here")
    return list(zip(one, other, strict=True))


def judge_agreement(record: dict[str, Any], base: dict[str, Any]) -> list[dict[str, Any]]:
    """How far each two judges agree on which of two policies answers a prompt better.

    Args:
        record: of the customized policy.
        base: of the base.

    Returns:
        One {judges: [name, name], share, kappa, prompts} per pair of judges.
    """
    directions = {name: _directions(name, record, base) for name in record.get("judges", {})}
    return [
        {"judges": [one, other], **agreement(directions[one], directions[other])._asdict()}
        for one, other in combinations(directions, 2)
    ]


def _directions(name: str, record: dict[str, Any], base: dict[str, Any]) -> list[int | None]:
    """Per prompt 1 where the judge finds the customized answer better than the base's, −1 worse, 0 a tie.

    The same answer is a tie, also where another batch has given it a reward that differs by rounding.
    """
    ours = record["judges"][name]["items"]
    answers, base_answers = (
        [(item["answer"], item["finished"]) for item in one["answers"]["items"]] for one in (record, base)
    )
    # A judge that compares with the base's answers says one half where it finds them equal.
    theirs = base["judges"][name]["items"] if name in base.get("judges", {}) else [0.5] * len(ours)
    return [
        None if before is None or after is None else (not same) * ((after > before) - (after < before))
        for (before, after), same in zip(
            _zipped(name, theirs, ours), map(operator.eq, answers, base_answers), strict=True
        )
    ]

"""The two axes of the frontier, taken out of records of `measure_policy`: items first, means and intervals of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import ConfigError, did_you_mean
from ..evaluate.judges import Judge
from ..evaluate.statistics import clustered

# Pair accuracy is none: it is that of the reward which Q̂ implies, and the dial does not change that.
NO_JUDGE = ("logp_margin",)


class Figure(NamedTuple):
    """A figure as the mean over groups of the weighted means over their items."""

    groups: list[list[float | None]]
    """Items by group; None where a judge failed. One group, or one for each task."""
    weights: list[list[float]] | None = None
    """Of the items; None: all alike."""

    @property
    def value(self) -> float:
        """The figure. Raises ValueError where no item of a group has a value."""
        means = []
        for index, group in enumerate(self.groups):
            weights = [1.0] * len(group) if self.weights is None else self.weights[index]
            known = [(item, weight) for item, weight in zip(group, weights, strict=True) if item is not None]
            if not known:
                raise ValueError("no item has a value")
            means.append(sum(item * weight for item, weight in known) / sum(weight for _, weight in known))
        return sum(means) / len(means)


def choose_behaviour(wanted: str | None, judges: Sequence[Judge]) -> str:
    """The name of the behaviour axis: what is wanted, or the first judge, or logp_margin without a judge.

    Raises:
        ConfigError: there is no such judge, with the nearest name.
    """
    names = [judge.name for judge in judges]
    if wanted is None:
        return [*names, NO_JUDGE[0]][0]
    if wanted not in (known := [*names, *NO_JUDGE]):
        raise ConfigError(
            f"frontier_y: there is no {wanted!r}{did_you_mean(wanted, known)}", hint=f"one of {', '.join(known)}"
        )
    return wanted


def behaviour(record: dict[str, Any], name: str) -> Figure:
    """What fresh answers are worth (or what the held-out pairs say), one item per prompt.

    A judge that compares with the base's answers says nothing of the base itself: half of the comparisons won.
    """
    if name == "logp_margin":
        items = record["preference"]["items"]
        # Records of before prompts were noted lack them.
        margins, pairs = clustered(items["logp_margin"], items.get("prompt", range(len(items["logp_margin"]))))
        return Figure([list(margins)], [pairs])
    if record["strength"] == 0 and name not in record["judges"]:
        return Figure([[0.5] * record["answers"]["prompts"]])
    return Figure([record["judges"][name]["items"]])


def gained(record: dict[str, Any], base: dict[str, Any], name: str) -> Figure:
    """Behaviour less the base's on the same prompt: most of what prompts differ in cancels."""
    after, before = behaviour(record, name), behaviour(base, name)
    (ours,), (theirs,) = after.groups, before.groups
    differences = [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)]
    return Figure([differences], after.weights)


def forgetting(record: dict[str, Any], base: dict[str, Any], name: str) -> Figure:
    """KL to the base per token of its answers to neutral prompts (nats), or the mean drop of the tasks (share).

    Raises:
        ConfigError: a drop of tasks, but in none of them more is better.
    """
    if name == "kl_to_base":
        items = record["retention"]["items"]
        return Figure([[item["kl"] for item in items]], [[float(item["tokens"]) for item in items]])
    drops: list[list[float | None]] = [
        [before - after for before, after in zip(base["tasks"][task]["items"], result["items"], strict=True)]
        for task, result in record["tasks"].items()
        if result["higher_is_better"]
    ]
    if not drops:
        raise ConfigError("frontier_x is tasks, but more is better in none of them.")
    return Figure(drops)


def axis_label(name: str) -> str:
    """What an axis shows, for plots and tables."""
    known = {
        "kl_to_base": "KL to the base (nats per token, neutral prompts)",
        "tasks": "mean drop of the tasks (share)",
        "logp_margin": "log-probability margin of held-out pairs (nats)",
    }
    if name in known:
        return known[name]
    kind, _, what = name.partition(":")
    wordings = {"checker": f"fresh answers accepted by {what} (share)", "reward": f"reward of fresh answers by {what}"}
    return wordings.get(kind, f"fresh answers that win against the base's, by {what} (share)")

"""Intervals for what was measured on a sample of items: the percentile bootstrap, seeded and paired.

An item is what was drawn from a population and could have been another one: a pair, a prompt, a document, a question.
Tokens of one item are no items: they are resampled together. The percentile interval of a handful of items is too
narrow, and that of items that are all alike has no width; both say more about the sample's size than about the model.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

# Items drawn at a time: 2^22 indices are 32 MiB.
_CHUNK = 2**22


class Interval(NamedTuple):
    """A figure and where it may lie."""

    value: float
    """On the sample itself."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def clustered(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[list[float], list[float]]:
    """The mean of each cluster and its size. With the sizes as weights, an interval is over whole clusters.

    Args:
        values: one per measurement.
        clusters: what each belongs to, such as the prompt that some pairs share: they were drawn together.

    Raises:
        ValueError: not one cluster per value.
    """
    members: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    return [sum(of) / len(of) for of in members.values()], [float(len(of)) for of in members.values()]


def bootstrap_mean(
    values: Sequence[float], *, weights: Sequence[float] | None = None, seed: int = 0, resamples: int = 2000,
    level: float = 0.95,
) -> Interval:  # fmt: skip
    """The mean over items and its percentile interval.

    Args:
        values: one per item.
        weights: ≥ 0, one per item: the mean is Σ weight·value / Σ weight. With the items' numbers of tokens it is the
            mean over tokens, resampled by item.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        level: probability between the two ends.

    Raises:
        ValueError: no values, values that are not finite, or weights that do not fit them.
    """
    return mean_of_means([values], weights=None if weights is None else [weights], seed=seed, resamples=resamples,
                         level=level)  # fmt: skip


def bootstrap_difference(
    a: Sequence[float], b: Sequence[float], *, weights: Sequence[float] | None = None, seed: int = 0,
    resamples: int = 2000, level: float = 0.95,
) -> Interval:  # fmt: skip
    """mean(b) − mean(a) over the same items, and its percentile interval; the items of both are drawn together.

    Args:
        a: one value per item, of the one policy.
        b: of the other policy, for the same items.
        weights: as in `bootstrap_mean`, the same for both.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        level: probability between the two ends.

    Raises:
        ValueError: as in `bootstrap_mean`, or a and b of unequal length.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be as many on both sides, got {len(a)} and {len(b)}")
    differences = (np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)).tolist()
    return bootstrap_mean(differences, weights=weights, seed=seed, resamples=resamples, level=level)


def mean_of_means(
    groups: Sequence[Sequence[float]], *, weights: Sequence[Sequence[float]] | None = None, seed: int = 0,
    resamples: int = 2000, level: float = 0.95,
) -> Interval:  # fmt: skip
    """The mean over groups (tasks, say) of the means over their items; items are resampled within their group.

    Args:
        groups: the items' values, by group.
        weights: of the items, by group.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        level: probability between the two ends.

    Raises:
        ValueError: no group, or a group as `bootstrap_mean` refuses it.
    """
    if not groups:
        raise ValueError("no groups to take the mean of")
    generator = np.random.default_rng(seed)
    value, drawn = 0.0, np.zeros(resamples)
    for index, group in enumerate(groups):
        products, masses = _checked(group, None if weights is None else weights[index])
        value += products.sum() / masses.sum() / len(groups)
        drawn += _resampled_means(products, masses, generator, resamples) / len(groups)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def _checked(values: Sequence[float], weights: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """weight·value and weight of every item, float64."""
    array = np.asarray(values, dtype=np.float64)
    masses = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError("a bootstrap needs at least one value, and finite ones only")
    if masses.shape != array.shape or not np.isfinite(masses).all() or (masses <= 0).any():
        raise ValueError("weights must be finite and above 0, one per value")
    return array * masses, masses


def _resampled_means(
    products: np.ndarray, masses: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """[resamples] Σ product / Σ mass, each over as many items as there are, drawn with replacement."""
    count = len(products)
    rows = max(1, _CHUNK // count)
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        means.append(products[drawn].sum(1) / masses[drawn].sum(1))
    return np.concatenate(means)

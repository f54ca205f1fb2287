"""Intervals of a figure that was measured on the same items with several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluate import Interval
from .axes import Figure

# Items drawn at a time: 2^22 indices are 32 MiB.
_CHUNK = 2**22


def over_prompts_and_seeds(
    figures: Sequence[Figure], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean over seeds and its percentile interval from a bootstrap over items and seeds.

    A resample draws items (the same for all seeds: they were measured on the same prompts) and seeds, both with
    replacement. One seed says nothing about other seeds: the interval is then over items alone, and too narrow.

    Args:
        figures: one per seed, on the same items.
        seed: of the resampling.
        resamples: number of bootstrap samples.
        level: probability between the two ends.

    Raises:
        ValueError: no figures, or a group of one of them without any value.
    """
    if not figures:
        raise ValueError("no seeds to take the mean of")
    value = float(np.mean([figure.value for figure in figures]))
    generator = np.random.default_rng(seed)
    drawn = np.zeros((len(figures), resamples))
    for group in range(len(figures[0].groups)):
        # [seeds, items]; a weight of zero where a judge failed.
        values = np.array([[np.nan if one is None else one for one in figure.groups[group]] for figure in figures])
        weights = np.array([
            np.ones(values.shape[1]) if figure.weights is None else figure.weights[group] for figure in figures
        ])  # fmt: skip
        weights = np.where(np.isnan(values), 0.0, weights)
        means = _resampled_means(np.nan_to_num(values) * weights, weights, generator, resamples)
        drawn += means / len(figures[0].groups)
    seeds = generator.integers(len(figures), size=(len(figures), resamples))
    low, high = np.nanquantile(np.take_along_axis(drawn, seeds, axis=0).mean(0), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _resampled_means(
    products: np.ndarray, weights: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """[seeds, resamples] Σ product / Σ weight over drawn items; NaN where only items without a value were drawn."""
    count = products.shape[1]
    rows = max(1, _CHUNK // (count * len(products)))
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        with np.errstate(invalid="ignore"):
            means.append(products[:, drawn].sum(-1) / weights[:, drawn].sum(-1))
    return np.concatenate(means, axis=1)

"""Intervals of a figure that was measured on the same items with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..evaluate import Interval
from .axes import Figure

# Items drawn at a time: 2^22 indices are 32 MiB.
_CHUNK = 2**22


class Draw(NamedTuple):
    """What a bootstrap draws. Equal draws of figures on the same items and seeds draw the same of both."""

    seed: int = 0
    items_of: int = 0
    """Which items: two draws that differ here alone draw the same seeds, and independent items."""
    resamples: int = 2000
    level: float = 0.95
    """Probability between the two ends."""


def over_prompts_and_seeds(figures: Sequence[Figure], draw: Draw) -> Interval:
    """The mean over seeds and its percentile interval from a bootstrap over items and seeds.

    One seed says nothing about other seeds: the interval is then over items alone, and too narrow.

    Args:
        figures: one per seed, on the same items.
        draw: the bootstrap.

    Raises:
        ValueError: no figures, or a group of one of them without any value.
    """
    drawn = resampled(figures, draw)
    value = float(np.mean([figure.value for figure in figures]))
    low, high = np.nanquantile(drawn, [(1 - draw.level) / 2, (1 + draw.level) / 2])
    return Interval(value, float(low), float(high))


def resampled(figures: Sequence[Figure], draw: Draw) -> np.ndarray:
    """[resamples] the means over seeds, of items (the same for all seeds) and seeds drawn with replacement.

    Args:
        figures: one per seed, on the same items.
        draw: the bootstrap.

    Returns:
        NaN where only items without a value were drawn.

    Raises:
        ValueError: no figures.
    """
    if not figures:
        raise ValueError("no seeds to take the mean of")
    generator = np.random.default_rng([draw.seed, 1, draw.items_of])
    means = np.zeros((len(figures), draw.resamples))
    for group in range(len(figures[0].groups)):
        # [seeds, items]; a weight of zero where a judge failed.
        values = np.array([[np.nan if one is None else one for one in figure.groups[group]] for figure in figures])
        weights = np.array([
            np.ones(values.shape[1]) if figure.weights is None else figure.weights[group] for figure in figures
        ])  # fmt: skip
        weights = np.where(np.isnan(values), 0.0, weights)
        of_group = _resampled_means(np.nan_to_num(values) * weights, weights, generator, draw.resamples)
        means += of_group / len(figures[0].groups)
    seeds = np.random.default_rng([draw.seed, 0]).integers(len(figures), size=means.shape)
    return np.take_along_axis(means, seeds, axis=0).mean(0)


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

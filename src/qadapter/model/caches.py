"""KV caches of two policies: the caller counts B rows, the cache holds 2B, [adapter; base]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import ConfigError
from .lora import Rows

# A mixin's `super()` is the cache it is mixed into; only the type checker needs to be told.
_AnyCache: Any = Cache if TYPE_CHECKING else object


class PairedRows(_AnyCache):
    """Mixin for a `transformers` cache: row i of the caller is rows i and i + B of the cache."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(_both(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        rows = self.layers[0].keys.shape[0] // 2
        if indices.dtype == torch.bool:
            indices = torch.nonzero(indices).flatten()
        super().batch_select_indices(torch.cat([indices, indices + rows]))

    def early_initialization(self, batch_size: int, *args: object, **kwargs: object) -> None:
        super().early_initialization(2 * batch_size, *args, **kwargs)


def _both(beam_idx: Tensor) -> Tensor:
    return torch.cat([beam_idx, beam_idx + len(beam_idx)])


def pair_cache(cache: Cache) -> Cache:
    """Make a fresh cache of any kind (dynamic, static, quantized, offloaded) count rows in pairs.

    Args:
        cache: a cache that holds nothing yet; its class is replaced in place by a subclass with `PairedRows`.

    Returns:
        The same object.

    Raises:
        ConfigError: the cache already holds the keys of one policy.
    """
    if isinstance(cache, PairedRows):
        return cache
    if cache.get_seq_length() > 0:
        raise ConfigError(
            "past_key_values already holds the keys of one policy; the mixture needs those of two.",
            hint="pass an empty cache, or the one that this model returned",
        )
    cache.__class__ = _paired_class(type(cache))
    return cache


def note_policy(cache: Cache, rows: Rows) -> None:
    """Write on a cache whose keys it holds."""
    cache.policy_rows = rows


def check_policy(cache: Cache, rows: Rows) -> None:
    """Refuse a cache that holds the keys of another policy.

    Args:
        cache: from an earlier pass or generation, or an empty one.
        rows: the policy that will read it, `ADAPTER` or `BASE`.

    Raises:
        ConfigError: with that strength the other policy alone has filled it.
    """
    if getattr(cache, "policy_rows", rows) is not rows and cache.get_seq_length() > 0:
        raise ConfigError(
            "past_key_values holds the keys of one policy, and this strength decodes with the other.",
            hint="pass the tokens again instead of the cache; a cache of both policies serves every strength",
        )


def _paired_class(kind: Any) -> type:
    """One class per kind of cache: compiled code depends on it."""
    if kind not in _paired_classes:
        _paired_classes[kind] = type(f"Paired{kind.__name__}", (PairedRows, kind), {})
    return _paired_classes[kind]


_paired_classes: dict[type, type] = {}

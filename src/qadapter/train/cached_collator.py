"""Batches that carry the base's part of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .base_cache import BaseCache

PAIR_INDEX = "pair_index"
"""The column with a pair's number in the cache."""


@dataclass(frozen=True)
class CachedCollator:
    """Add `base_states` to the batches of another collator.

    Args:
        collator: makes the batch; it must keep the order and the tokens of the pairs.
        cache: holds the states of all pairs.
    """

    collator: Callable[..., dict[str, Tensor]]
    cache: BaseCache

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Args: tokenized pairs with `PAIR_INDEX`. Returns: the batch with `base_states`.

        Raises:
            ConfigError: the batch's rows are not the pairs' tokens, so kept states would belong to others.
        """
        batch = self.collator([{name: value for name, value in pair.items() if name != PAIR_INDEX} for pair in pairs])
        if _sequences(batch) != [
            (pair["prompt_ids"], pair[f"{side}_ids"], pair[f"{side}_terminated"])
            for side in ("chosen", "rejected")
            for pair in pairs
        ]:
            raise ConfigError(
                f"the batches of {self.collator!r} do not hold the pairs' tokens in their order, chosen rows first; "
                "cache_base needs that.",
                hint="set cache_base to false, or leave out data_collator",
            )
        return {**batch, "base_states": self.cache.gather([pair[PAIR_INDEX] for pair in pairs])}


def _sequences(batch: Mapping[str, Tensor]) -> list[tuple[list[int], list[int], bool]]:
    """Prompt, response and whether it ended, of each row."""
    found = []
    for row, ids in enumerate(batch["input_ids"]):
        completion = batch["completion_mask"][row].bool()
        before = torch.arange(len(ids)) < completion.int().argmax()
        if batch.get("attention_mask") is not None:
            before &= batch["attention_mask"][row].bool()
        found.append((ids[before].tolist(), ids[completion].tolist(), bool(batch["terminated"][row])))
    return found

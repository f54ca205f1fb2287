"""The last step of an epoch, where the pairs that are left do not give every process a full share.

All processes must take part in every exchange of gradients, so accelerate fills the last batches up with pairs from the
beginning of the epoch. Those are computed and not counted: neither in the loss nor in any metric.
"""

from __future__ import annotations

from typing import Any

import torch

from .micro_batch import pair_count

COUNTED = "counted"
"""The entry of a batch that says so: [2·pairs] bool. Absent where all pairs count."""


def mark_counted(batch: dict[str, Any], *, process: int, left: int) -> dict[str, Any]:
    """Say which pairs of the last batch of an epoch count.

    Args:
        batch: of this process; those of all processes have the same size and come in the order of the processes.
        process: index of this process.
        left: pairs that are left for all processes together; 0 where they fill the batches.
    """
    pairs = pair_count(batch)
    if not left or left >= (process + 1) * pairs:
        return batch
    position = process * pairs + torch.arange(pairs, device=batch["terminated"].device)
    return {**batch, COUNTED: (position < left).repeat(2)}


def counted_pairs(batch: dict[str, Any]) -> int:
    """How many pairs of a batch count."""
    return int(batch[COUNTED].sum()) // 2 if COUNTED in batch else pair_count(batch)

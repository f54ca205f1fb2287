"""The order of the training pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Sorting within pools of this many steps keeps padding under 5 % of the tokens. Data of fewer steps are one pool: then
# much the same rows meet in every epoch, and anchors, which have lengths of their own, meet anchors more than pairs.
_POOL_BATCHES = 64


class LengthGroupedSampler(Sampler[int]):
    """Batches of pairs of like length, in random order; which pairs is random over data of several pools.

    The order depends on the seed, the epoch and the size of a step alone: a resumed run continues with the batches it
    would have seen, and it does not matter into how many processes and micro-batches a step is divided.
    (The sampler of transformers draws from the global generator, whose state differs after a restart.)

    Args:
        lengths: tokens of each pair.
        batch_size: pairs per step of the optimizer, over all processes and micro-batches.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        pool = self.batch_size * _POOL_BATCHES
        batches = []
        for start in range(0, len(order), pool):
            by_length = sorted(order[start : start + pool], key=lambda index: self.lengths[index])
            batches += [by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)]
        # A batch that is not full must stay the last, or the batches after it would be cut at other places.
        partial = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        for batch in shuffled + partial:
            yield from batch

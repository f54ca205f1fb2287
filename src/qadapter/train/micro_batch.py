"""A batch of pairs in parts that fit into memory, without losing a pair or counting one twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core import BaseStates
from .memory import is_out_of_memory, release_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def pair_count(batch: dict[str, Any]) -> int:
    """The pairs of a batch of `PreferenceCollator`, which has two rows for each."""
    return len(batch["terminated"]) // 2


def pair_lengths(batch: dict[str, Any]) -> Tensor:
    """[pairs] tokens of each pair, its prompt counted once."""
    chosen, _ = batch["attention_mask"].sum(dim=1).chunk(2)
    _, rejected_response = batch["completion_mask"].sum(dim=1).chunk(2)
    return chosen + rejected_response


def take_pairs(batch: dict[str, Any], which: Sequence[int]) -> dict[str, Any]:
    """Some pairs of a batch as a batch of its own.

    Args:
        batch: tensors of 2·pairs rows, the chosen rows first; those of two dimensions are [rows, tokens]. Also
            `base_states`, if the batch carries them: those of all rows, one row after the other.
        which: indices of pairs; one that is named twice is there twice.

    Returns:
        The rows of both sides, cut to the longest of them.
    """
    pairs = pair_count(batch)
    rows = torch.tensor([*which, *(pairs + index for index in which)], device=batch["terminated"].device)
    part = {name: values[rows] for name, values in batch.items() if name != "base_states"}
    tokens = int(part["attention_mask"].any(dim=0).nonzero().max()) + 1
    part = {name: values[:, :tokens] if values.ndim == 2 else values for name, values in part.items()}
    if "base_states" in batch:
        # A response that was cut has one more state than tokens, the one it was left in.
        counts = (batch["completion_mask"].sum(dim=1) + ~batch["terminated"]).tolist()
        part["base_states"] = BaseStates._make(
            None if field is None else torch.cat([field.split(counts)[row] for row in rows.tolist()])
            for field in batch["base_states"]
        )
    return part


class MicroBatches:
    """Works through batches in parts of at most `most` pairs, fewer after memory ran out.

    Args:
        most: pairs of a part; None for whole batches.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def run(
        self,
        batch: dict[str, Any],
        work: Callable[[dict[str, Any]], Result],
        undo_point: Callable[[], Callable[[], None]],
    ) -> list[Result]:
        """Do `work` on every pair once, in order.

        Args:
            batch: of `PreferenceCollator`.
            work: takes a part of the batch. Where memory runs out in it, it is undone and done again on fewer pairs.
            undo_point: called before a part; what it returns undoes what `work` left of a part that failed.

        Returns:
            The result of each part.

        Raises:
            RuntimeError, MemoryError: the error of `work`, where a single pair does not fit or it is another one.
        """
        pairs, done = pair_count(batch), 0
        results: list[Result] = []
        while done < pairs:
            size = self._next_size(pairs - done)
            part = batch if size == pairs else take_pairs(batch, range(done, done + size))
            undo = None
            try:
                if size > 1:
                    undo = undo_point()
                results.append(work(part))
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            else:
                done += size
                continue
            # Not in the handler: the exception keeps the tensors of the failed part alive.
            if undo is not None:
                undo()
            release_memory()
            self.most = size // 2
            logger.warning(
                "auto_micro_batch: %d pairs of up to %d tokens do not fit into memory; going on with at most %d at a "
                "time. No pair is lost, and the optimizer still sees whole batches.",
                size,
                int(pair_lengths(part).max()),
                self.most,
            )
        return results

    def _next_size(self, left: int) -> int:
        """Parts of like size need less at their peak than full ones and a rest."""
        parts = 1 if self.most is None else -(-left // self.most)
        return -(-left // parts)

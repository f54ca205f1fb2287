"""A dense attention mask as blocks: which keys a run of queries looks at, and nothing of the rest.

In a packed row a query sees at most what lies before it, and a rejected response nothing of the chosen one: of a long
row more than half of the scores need not be computed. The blocks are read off the mask: any mask gives exact results.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Queries of a block, about: shorter ones make the products too small, longer ones compute scores that the mask hides.
_QUERIES = 128
# Scores of a block and key head at most; at 2^20 they stay in the cache of one core.
_SCORES = 2**20


class AttentionBlock(NamedTuple):
    """A run of queries of one row, and the keys that at least one of them sees."""

    queries: slice
    keys: slice | Tensor
    """A slice, or the positions, [keys]."""
    bias: Tensor
    """[heads per key head · queries, keys], added to the scores."""


def attention_blocks(mask: Tensor, heads_per_key: int) -> list[list[AttentionBlock]]:
    """The blocks of each row.

    Args:
        mask: [rows, 1, queries, keys], added to the scores; the dtype's lowest number hides a key.
        heads_per_key: query heads that share a key head.

    Returns:
        One list of blocks per row; their queries cover the row in order.

    Raises:
        ValueError: a query that sees no key at all.
    """
    visible = mask > torch.finfo(mask.dtype).min
    if not bool(visible.any(dim=-1).all()):
        raise ValueError("every query must see at least one key")
    queries, keys = mask.shape[2:]
    count = max(1, round(queries / _QUERIES), -(-queries * keys * heads_per_key // _SCORES))
    size = -(-queries // count)
    return [
        [
            _block(row, seen, slice(start, min(start + size, queries)), heads_per_key)
            for start in range(0, queries, size)
        ]
        for row, seen in zip(mask[:, 0], visible[:, 0], strict=True)
    ]


def _block(mask: Tensor, visible: Tensor, queries: slice, heads_per_key: int) -> AttentionBlock:
    positions = visible[queries].any(dim=0).nonzero()[:, 0]
    first, last = int(positions[0]), int(positions[-1])
    keys = slice(first, last + 1) if last - first + 1 == len(positions) else positions
    return AttentionBlock(queries, keys, mask[queries, keys].repeat(heads_per_key, 1))

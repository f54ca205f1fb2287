"""Keys and values of sequences of different lengths, one row each, that can come and go while the others stay.

    row 0   k k k k k k . .      token i of a sequence lies at position i, whoever its neighbours are
    row 1   k k k . . . . .      . is reserved, and hidden by `attention_masks`
    row 2   k k k k k k k .

What is reserved holds zeros or what was there before: a mask hides numbers, but not what is none (0 · NaN is NaN).
What a row holds is one run of memory per layer, so that moving a row is one copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

# Memory is reserved in blocks of this many rows and positions; growing copies what is there.
_ROWS, _POSITIONS = 4, 128


class KVRows(Cache):
    """A cache of transformers over rows of different lengths.

    A pass of the model writes the tokens that `begin` was told of behind what each row holds.

    Args:
        layers: attention layers of the model.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.lengths: list[int] = []
        """Tokens that each row holds."""
        self.room = (0, 0)
        """Rows and positions that memory is reserved for."""
        self.write_at = torch.empty(0, dtype=torch.long)
        """[rows · columns]: where the running pass writes, counted over all rows' positions."""
        self.positions = 0
        """Positions that the running pass reads: up to the last column of the longest row."""

    def begin(self, new: Sequence[int], device: torch.device) -> Tensor:
        """Get ready for a pass over new tokens, the same number of columns in every row.

        Args:
            new: how many of the columns are tokens, per row. What the others write lies behind the row's end, where
                nobody looks and the row's next tokens come to lie.
            device: of the model.

        Returns:
            [rows, columns] position of each new token in its sequence.
        """
        columns = max(new)
        self.positions = max(self.lengths) + columns
        self.reserve(len(self.lengths), self.positions)
        lengths = torch.tensor(self.lengths, device=device)
        at = lengths[:, None] + torch.arange(columns, device=device)
        first = torch.arange(len(self.lengths), device=device) * self.room[1]
        self.write_at = (first[:, None] + at).flatten()
        self.lengths = [length + tokens for length, tokens in zip(self.lengths, new, strict=True)]
        return at

    def reserve(self, rows: int, positions: int) -> None:
        """Have memory for at least so many rows and positions."""
        if rows > self.room[0] or positions > self.room[1]:
            self.room = (max(self.room[0], _up(rows, _ROWS)), max(self.room[1], _up(positions, _POSITIONS)))
            for layer in self.layers:
                layer.grow(self.room, max(self.lengths, default=0))

    def add_row(self) -> None:
        """One more row, empty, behind the others."""
        self.reserve(len(self.lengths) + 1, 1)
        self.lengths.append(0)

    def drop_last_row(self) -> None:
        """One row less. The last of all takes the memory with it."""
        self.lengths.pop()
        if not self.lengths:
            self.room = (0, 0)
            for layer in self.layers:
                layer.forget()

    def copy_row(self, source: KVRows, row: int, to: int) -> None:
        """Make row `to` hold what `row` of `source` holds; `source` may be this object."""
        length = source.lengths[row]
        self.reserve(len(self.lengths), length)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            mine.copy_row(theirs, row, to, length)
        self.lengths[to] = length

    @property
    def bytes(self) -> int:
        """Memory that is reserved."""
        return sum(held.nbytes for layer in self.layers if layer.is_initialized for held in (layer.keys, layer.values))


class _Layer(CacheLayerMixin):
    """Keys and values of one layer, [rows, positions, heads, head size]; None while there are none."""

    keys: Any
    values: Any

    def __init__(self, rows: KVRows) -> None:
        super().__init__()
        # A strong reference back would keep the memory of dropped rows until the garbage collector comes by.
        self.rows: Any = weakref.proxy(rows)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve memory for states like these, [rows, heads, queries, head size]."""
        self.keys, self.values = (
            states.new_zeros(*self.rows.room, states.shape[1], states.shape[3]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new states; return all that the pass reads, [rows, heads, positions, head size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._extend(self.keys, key_states), self._extend(self.values, value_states)

    def _extend(self, held: Tensor, states: Tensor) -> Tensor:
        features = states.shape[1] * states.shape[3]
        new = states.transpose(1, 2).reshape(-1, features)
        held.view(-1, features).index_copy_(0, self.rows.write_at, new)
        return held[: len(states), : self.rows.positions].transpose(1, 2)

    def grow(self, room: tuple[int, int], used: int) -> None:
        """Move to more memory, with the first `used` positions of each row."""
        if self.is_initialized:
            self.keys, self.values = (_grown(held, room, used) for held in (self.keys, self.values))

    def forget(self) -> None:
        """Give the memory back."""
        self.keys = self.values = None
        self.is_initialized = False

    def copy_row(self, source: _Layer, row: int, to: int, length: int) -> None:
        if not self.is_initialized:
            # Of the shapes that the model's states have: [1, heads, positions, head size].
            self.lazy_initialization(source.keys[:1].transpose(1, 2), source.values[:1].transpose(1, 2))
        self.keys[to, :length] = source.keys[row, :length]
        self.values[to, :length] = source.values[row, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.rows.positions, 0

    def get_seq_length(self) -> int:
        """Tokens of the longest row."""
        return max(self.rows.lengths, default=0)

    def get_max_length(self) -> int:
        return -1


def _up(count: int, block: int) -> int:
    return -(-count // block) * block


def _grown(held: Tensor, room: tuple[int, int], used: int) -> Tensor:
    larger = held.new_zeros(*room, *held.shape[2:])
    larger[: len(held), :used] = held[:, :used]
    return larger

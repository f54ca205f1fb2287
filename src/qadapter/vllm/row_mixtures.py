"""The weights (a, b) of the rows of the running batch, and of their tokens."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core import Mixture


class RowMixtures:
    """One mixture per row of the running batch, in tensors whose addresses stay: a captured graph reads them.

    Args:
        default: of rows that are not set.
        rows: the largest number of rows.
        device: of the model.
    """

    def __init__(self, default: Mixture, rows: int, device: torch.device | str = "cpu") -> None:
        self.default = default
        self.weights = torch.tensor(default, dtype=torch.float32, device=device)[:, None].repeat(1, rows)
        """[2, rows]: a, b."""

    def set(self, rows: Mapping[int, Mixture]) -> None:
        """Give rows their mixtures; all others take the default."""
        fresh = torch.tensor(self.default, dtype=torch.float32)[:, None].repeat(1, self.weights.shape[1])
        for row, mixture in rows.items():
            fresh[:, row] = torch.tensor(mixture, dtype=torch.float32)
        self.weights.copy_(fresh)

    def of_tokens(self, query_start_loc: Tensor, tokens: int) -> Mixture:
        """The weights of each token of a step.

        Args:
            query_start_loc: [rows + 1] int, the index of each row's first token, and the end of the last row.
            tokens: number of tokens of the step; those after the last row's end are padding.

        Returns:
            Tensors [tokens].
        """
        index = torch.arange(tokens, device=query_start_loc.device, dtype=query_start_loc.dtype)
        row = torch.searchsorted(query_start_loc[1:].contiguous(), index, right=True)
        weights = self.weights[:, row.clamp(max=self.weights.shape[1] - 1)]
        return Mixture(weights[0], weights[1])


ENGINES: weakref.WeakValueDictionary[str, RowMixtures] = weakref.WeakValueDictionary()
"""By the `instance_id` of vLLM's config. vLLM builds what follows the batch and the model apart from each other; both
live in the worker's process and meet here."""

"""Which states of a preference batch count, and which token was taken in each.

State t of a response sits at the position before its token t. A response that was cut has one more state that counts,
the one it was left in. Everything that is computed per state comes in this order: response by response, the chosen ones
first, and in a response by time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .shared_prefix import packed_states


class ResponseStates(NamedTuple):
    """The states of the responses of a batch."""

    first: Tensor
    """[2·pairs] position of the first response token."""
    lengths: Tensor
    """[2·pairs] number of response tokens."""
    terminated: Tensor
    """[2·pairs] bool, False where a response was cut."""
    row: Tensor
    """[states] the response of the state."""
    t: Tensor
    """[states] 0 before the first token, up to the response's length after the last token of one that was cut."""
    action: Tensor
    """[states] the token taken; the state that a response was left in has none and repeats the last."""

    def columns(self, *, packed: bool) -> tuple[Tensor, Tensor]:
        """Row and column of each state in the hidden states of a backbone.

        Args:
            packed: whether each pair is one row.
        """
        if packed:
            return packed_states(self.first, self.lengths, self.row, self.t)
        return self.row, self.first[self.row] - 1 + self.t


def response_states(input_ids: Tensor, completion_mask: Tensor, terminated: Tensor) -> ResponseStates:
    """Find them.

    Args:
        input_ids: [2·pairs, tokens], chosen rows first.
        completion_mask: [2·pairs, tokens] bool, True at the tokens of the response (a contiguous run).
        terminated: [2·pairs] bool, False where a response was cut.

    Raises:
        DataError: a row without prompt or without response tokens.
    """
    lengths, first = completion_mask.sum(dim=1), completion_mask.int().argmax(dim=1)
    empty = (lengths == 0) | (first == 0)
    if bool(empty.any()):
        raise DataError(
            f"rows {empty.nonzero().flatten().tolist()} of the batch have no response token, or no prompt token "
            "before it.",
            hint="raise max_length, or check the file with `qadapter data check`",
        )
    step = torch.arange(int(lengths.max()) + 1, device=input_ids.device)[None, :]
    row, t = (step < (lengths + (~terminated).long())[:, None]).nonzero(as_tuple=True)
    # The state after the last token has no action; its slot takes the last token, and only its value is used.
    action = input_ids[row, torch.minimum(first[row] + t, (first + lengths - 1)[row])]
    return ResponseStates(first, lengths, terminated, row, t, action)

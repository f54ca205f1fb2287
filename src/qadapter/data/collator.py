"""From tokenized pairs to a padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class PreferenceCollator:
    """Pad pairs to one batch: the chosen rows first, then the rejected ones, right-padded.

    Args:
        pad_token_id: fills rows; never seen, since the attention mask is 0 there.

    One pair, prompt [5, 6], chosen [7, 2], rejected [8, 9, 2] cut before its end, gives

        input_ids        [[5, 6, 7, 2, 0], [5, 6, 8, 9, 2]]
        attention_mask   [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
        completion_mask  [[F, F, T, T, F], [F, F, T, T, T]]
        terminated       [T, F]

    and, where the pairs say which of them are anchors, `anchor`, [2·pairs] bool.
    """

    pad_token_id: int

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Args: pairs with the fields of `TokenizedPair`. Returns: the tensors above, 2·pairs rows."""
        rows, masks, terminated = [], [], []
        for side in ("chosen", "rejected"):
            for pair in pairs:
                prompt, response = pair["prompt_ids"], pair[f"{side}_ids"]
                rows.append(torch.tensor([*prompt, *response]))
                masks.append(torch.arange(len(prompt) + len(response)) >= len(prompt))
                terminated.append(pair[f"{side}_terminated"])
        batch = {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
            "completion_mask": pad_sequence(masks, batch_first=True),
            "terminated": torch.tensor(terminated),
        }
        if "anchor" in pairs[0]:
            batch["anchor"] = torch.tensor([pair["anchor"] for pair in pairs]).repeat(2)
        return batch

"""Held-out preference accuracy and margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from datasets import Dataset

from ..data import PreferenceCollator
from ..model import QAdapterForCausalLM


@dataclass(frozen=True)
class PreferenceResult:
    """What Q̂ says about held-out pairs."""

    accuracy: float
    """Share of pairs whose chosen response has the higher return; a tie counts one half."""
    margin: float
    """Mean return of chosen minus rejected, reward units."""
    logp_margin: float
    """Mean log π̃ of chosen minus rejected, nats."""
    base_logp_margin: float
    """The same for the base policy, nats."""
    pairs: int


@torch.inference_mode()
def evaluate_preference(
    model: QAdapterForCausalLM, tokenized: Dataset, pad_token_id: int, *, batch_size: int = 16
) -> PreferenceResult:
    """Rank held-out pairs by the return that Q̂ implies.

    An untrained `residual` adapter has Q̂ = 0: all pairs tie and the accuracy is one half by definition.

    Args:
        model: the model; put in eval mode.
        tokenized: pairs from `qadapter.train.tokenize_dataset`.
        pad_token_id: for the batches.
        batch_size: pairs per batch; no result depends on it.

    Returns:
        Means over the pairs.
    """
    model.eval()
    collate = PreferenceCollator(pad_token_id)
    order = sorted(range(len(tokenized)), key=lambda index: tokenized[index]["length"])
    margins, logp_margins, base_margins = [], [], []
    for start in range(0, len(order), batch_size):
        batch = collate([tokenized[index] for index in order[start : start + batch_size]])
        output = model(**{name: value.to(model.device) for name, value in batch.items()})
        margins.append(output.return_chosen - output.return_rejected)
        logp_margins.append(output.logp_chosen - output.logp_rejected)
        base_margins.append(output.base_logp_chosen - output.base_logp_rejected)
    margin = torch.cat(margins).double()
    wins = (margin > 0).double() + 0.5 * (margin == 0).double()
    return PreferenceResult(
        accuracy=wins.mean().item(),
        margin=margin.mean().item(),
        logp_margin=torch.cat(logp_margins).double().mean().item(),
        base_logp_margin=torch.cat(base_margins).double().mean().item(),
        pairs=len(margin),
    )

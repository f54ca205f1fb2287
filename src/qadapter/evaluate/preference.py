"""Held-out preference accuracy and margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from datasets import Dataset

from ..data import PreferenceCollator
from ..model import QAdapterForCausalLM
from .token_scores import ScoredText, score_tokens


@dataclass(frozen=True)
class PreferenceResult:
    """What Q̂ and the policy say about held-out pairs."""

    accuracy: float
    """Share of pairs whose chosen response has the higher return; a tie counts one half."""
    margin: float
    """Mean return of chosen minus rejected, reward units."""
    logp_margin: float
    """Mean log π̃ of chosen minus rejected, nats."""
    base_logp_margin: float
    """The same for the base policy, nats."""
    logp_chosen: float
    """Mean log π̃ of the chosen responses, nats."""
    pairs: int
    margins: list[float]
    """`margin` of each pair, in their order."""
    logp_margins: list[float]
    """`logp_margin` of each pair."""
    logps_chosen: list[float]
    """`logp_chosen` of each pair."""


@torch.inference_mode()
def evaluate_preference(
    model: QAdapterForCausalLM,
    tokenized: Dataset,
    pad_token_id: int,
    *,
    batch_size: int = 16,
    strength: float = 1.0,
) -> PreferenceResult:
    """Rank held-out pairs by the return that Q̂ implies.

    An untrained `residual` adapter has Q̂ = 0: all pairs tie and the accuracy is one half by definition. The same goes
    for strength 0, where Q̂ is off.

    Args:
        model: the model; put in eval mode.
        tokenized: pairs from `qadapter.train.tokenize_dataset`.
        pad_token_id: for the batches.
        batch_size: pairs per batch; no result depends on it.
        strength: η of the log-probabilities. The returns are those of Q̂ as it was trained, at any strength but 0.

    Returns:
        Means over the pairs, and the values of each pair.
    """
    model.eval()
    collate = PreferenceCollator(pad_token_id)
    order = sorted(range(len(tokenized)), key=lambda index: tokenized[index]["length"])
    # Rows: margin; log π̃ of chosen and rejected at strength 1; log π₀ of both.
    found = torch.empty(5, len(tokenized), dtype=torch.float64)
    for start in range(0, len(order), batch_size):
        at = order[start : start + batch_size]
        batch = collate([tokenized[index] for index in at])
        output = model(**{name: value.to(model.device) for name, value in batch.items()})
        values = (
            output.return_chosen - output.return_rejected,
            *(output.logp_chosen, output.logp_rejected, output.base_logp_chosen, output.base_logp_rejected),
        )
        found[:, at] = torch.stack(values).cpu().double()
    margin, *logps, base_chosen, base_rejected = found
    if strength == 0:
        margin, logps = torch.zeros_like(margin), [base_chosen, base_rejected]
    elif strength != 1:
        logps = _logps(model, tokenized, batch_size, strength)
    chosen, rejected = logps
    wins = (margin > 0).double() + 0.5 * (margin == 0).double()
    return PreferenceResult(
        accuracy=wins.mean().item(),
        margin=margin.mean().item(),
        logp_margin=(chosen - rejected).mean().item(),
        base_logp_margin=(base_chosen - base_rejected).mean().item(),
        logp_chosen=chosen.mean().item(),
        pairs=len(margin),
        margins=margin.tolist(),
        logp_margins=(chosen - rejected).tolist(),
        logps_chosen=chosen.tolist(),
    )


def _logps(model: QAdapterForCausalLM, tokenized: Dataset, batch_size: int, strength: float) -> list[torch.Tensor]:
    """log π̃ of the chosen and of the rejected responses, [pairs] each."""
    texts = [
        ScoredText(pair["prompt_ids"] + pair[side], len(pair[side]))
        for side in ("chosen_ids", "rejected_ids")
        for pair in tokenized
    ]
    scores = score_tokens(model, texts, strength=strength, batch_size=2 * batch_size)
    return list(torch.stack([score.logp.cpu().double().sum() for score in scores]).chunk(2))

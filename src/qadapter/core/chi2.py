"""The squared-reward penalty."""

from __future__ import annotations

from torch import Tensor


def chi2_penalty(r_chosen_t: Tensor, mask_chosen: Tensor, r_rejected_t: Tensor, mask_rejected: Tensor) -> Tensor:
    """E[r²] over the tokens of a pair, one value per pair.

    The mean is over the tokens of both responses of one pair, never over a batch: a pair's penalty does not depend
    on its neighbours, so micro-batches and accumulation change nothing.

    Args:
        r_chosen_t: [pairs, tokens] rewards of the chosen responses.
        mask_chosen: [pairs, tokens] bool, True at the response's tokens.
        r_rejected_t: [pairs, other tokens] rewards of the rejected responses.
        mask_rejected: [pairs, other tokens] bool.

    Returns:
        [pairs] mean squared reward.

    Source: Q-Adapter (arXiv 2407.03856), the regularizer of the objective.
    """
    squares = r_chosen_t.square().masked_fill(~mask_chosen, 0.0).sum(dim=1)
    squares = squares + r_rejected_t.square().masked_fill(~mask_rejected, 0.0).sum(dim=1)
    return squares / (mask_chosen.sum(dim=1) + mask_rejected.sum(dim=1))

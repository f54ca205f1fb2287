"""Returns of responses and the Bradley-Terry loss of a pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def discounted_return(r_t: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Σ_t γ^t · r_t over a response, t = 0 at its first token.

    Args:
        r_t: [responses, tokens] rewards, responses aligned at column 0.
        mask: [responses, tokens] bool, True at the response's tokens.
        gamma: discount γ in [0, 1].

    Returns:
        [responses] returns in reward units.
    """
    discount = gamma ** torch.arange(r_t.shape[1], device=r_t.device, dtype=r_t.dtype)
    return (discount * r_t.masked_fill(~mask, 0.0)).sum(dim=1)


def bradley_terry_loss(return_chosen: Tensor, return_rejected: Tensor) -> Tensor:
    """−log σ(R_chosen − R_rejected), one value per pair.

    Args:
        return_chosen: [pairs] returns of the chosen responses.
        return_rejected: [pairs] returns of the rejected responses.

    Returns:
        [pairs] losses in nats.

    Source: Q-Adapter (arXiv 2407.03856), the Bradley-Terry term of the objective.
    """
    return -F.logsigmoid(return_chosen - return_rejected)

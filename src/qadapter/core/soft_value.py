"""The soft value of a state."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_value(residual_q: Tensor, base_logp: Tensor, *, alpha_0: float, alpha_tilde: float) -> Tensor:
    """Ṽ(s) = α̃ · log Σ_a exp[(Q̂(s,a) + α₀·log π₀(a|s)) / α̃].

    Args:
        residual_q: Q̂(s, ·), [..., vocabulary], reward units.
        base_logp: log π₀(·|s), [..., vocabulary], nats.
        alpha_0: α₀ ≥ 0.
        alpha_tilde: α̃ > 0.

    Returns:
        Ṽ(s), [...], reward units.

    Source: Q-Adapter (arXiv 2407.03856), soft value of the customized policy.
    """
    return alpha_tilde * torch.logsumexp((residual_q + alpha_0 * base_logp) / alpha_tilde, dim=-1)

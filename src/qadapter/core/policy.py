"""The customized policy."""

from __future__ import annotations

from torch import Tensor

from .soft_value import soft_value


def policy_logp(residual_q: Tensor, base_logp: Tensor, *, alpha_0: float, alpha_tilde: float) -> Tensor:
    """log π̃(·|s) = (Q̂(s,·) + α₀·log π₀(·|s) − Ṽ(s)) / α̃.

    Args:
        residual_q: Q̂(s, ·), [..., vocabulary], reward units.
        base_logp: log π₀(·|s), [..., vocabulary], nats.
        alpha_0: α₀ ≥ 0.
        alpha_tilde: α̃ > 0.

    Returns:
        log π̃(·|s), [..., vocabulary], nats; it sums to one over the vocabulary after `exp`.

    Source: Q-Adapter (arXiv 2407.03856), the customized policy of residual Q-learning.
    """
    value = soft_value(residual_q, base_logp, alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    return (residual_q + alpha_0 * base_logp - value[..., None]) / alpha_tilde

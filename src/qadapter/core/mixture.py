"""The customized policy as one linear combination of logits. The loss and the decoder both use this."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .residual_q import ResidualQ

Scalar = float | Tensor


class Mixture(NamedTuple):
    """Weights (a, b) with log π̃(·|s) = log-softmax(`adapter` · z₁ + `base` · z₀). Numbers, or one per row [rows]."""

    adapter: Scalar
    base: Scalar


def policy_mixture(residual_q: ResidualQ, *, alpha_0: Scalar, alpha_tilde: Scalar, strength: Scalar = 1.0) -> Mixture:
    """The weights of the two logit vectors in the customized policy.

    From log π̃ = (η·Q̂ + α₀·log π₀ − Ṽ)/α̃ with Q̂ = q₁·z₁ + q₀·z₀ and log π₀ = z₀ − const(s):

        a = η·q₁/α̃,   b = (η·q₀ + α₀)/α̃

    With Q̂ = α̃·(z₁ − z₀) this is a = η, b = ρ − η with ρ = α₀/α̃.

    Args:
        residual_q: the weights that define Q̂.
        alpha_0: α₀ ≥ 0, the weight of the base policy (= λ·α₁ in the paper).
        alpha_tilde: α̃ > 0, the entropy temperature of the customized policy.
        strength: η ≥ 0, the decode-time dial on Q̂: 0 is π₀^(α₀/α̃), 1 what was trained, above 1 extrapolates.

    Each of the three may be a number or a tensor [rows] (one value per row of the batch).

    Returns:
        The weights, numbers where all arguments are numbers.

    Source: Q-Adapter (arXiv 2407.03856), the customized policy of residual Q-learning, with the dial added.
    """
    return Mixture(
        adapter=strength * residual_q.adapter / alpha_tilde,
        base=(strength * residual_q.base + alpha_0) / alpha_tilde,
    )

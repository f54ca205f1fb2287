"""The residual Q-function as a linear combination of the two logit vectors."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

Parametrization = Literal["residual", "logits"]
PARAMETRIZATIONS: tuple[str, ...] = get_args(Parametrization)


class ResidualQ(NamedTuple):
    """Weights of Q̂(s, a) = `adapter` · z₁(s, a) + `base` · z₀(s, a), in reward units per logit."""

    adapter: float
    base: float

    def __call__(self, adapter_logits: Tensor, base_logits: Tensor) -> Tensor:
        """Q̂ of every action.

        Args:
            adapter_logits: z₁, [..., vocabulary] or gathered at the taken actions, [...].
            base_logits: z₀, the same shape.

        Returns:
            Q̂, the same shape, in reward units.
        """
        return self.adapter * adapter_logits + self.base * base_logits


def residual_q_function(parametrization: Parametrization, alpha_tilde: float) -> ResidualQ:
    """What the logits of the adapter mean.

    `logits`: Q̂ = z₁, the paper's official code. A fresh LoRA (z₁ = z₀) starts at Q̂ = z₀.
    `residual`: Q̂ = α̃·(z₁ − z₀). A fresh LoRA starts at Q̂ = 0.

    Q̂ is what was learned, so its scale stays at the `alpha_tilde` of *training* also where decoding uses another
    temperature.

    Args:
        parametrization: `residual` or `logits`.
        alpha_tilde: α̃ > 0 of training, the entropy temperature in reward units.

    Returns:
        The weights of z₁ and z₀.

    Raises:
        ValueError: unknown parametrization.

    Source: `logits` is how the paper's official code reads its adapter; `residual` is this project's.
    """
    if parametrization == "logits":
        return ResidualQ(adapter=1.0, base=0.0)
    if parametrization == "residual":
        return ResidualQ(adapter=alpha_tilde, base=-alpha_tilde)
    raise ValueError(f"parametrization must be one of {PARAMETRIZATIONS}, got {parametrization!r}")

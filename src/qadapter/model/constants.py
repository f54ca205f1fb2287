"""The constants of the method: what, besides weights, is needed to decode with a trained adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core import (
    PARAMETRIZATIONS,
    VALUE_STATES,
    Mixture,
    Parametrization,
    ResidualQ,
    ValueState,
    policy_mixture,
    residual_q_function,
)
from ..core.mixture import Scalar
from ..errors import ConfigError


@dataclass(frozen=True)
class QConstants:
    """The constants of the objective and of the customized policy. Raises `ConfigError` where they make no sense."""

    parametrization: Parametrization = "residual"
    """What the adapter's logits mean: `residual` (Q̂ = α̃·(z₁ − z₀)) or `logits` (Q̂ = z₁)."""
    alpha_0: float = 1.0
    """α₀ ≥ 0: weight of the base policy."""
    alpha_tilde: float = 1.0
    """α̃ > 0: entropy temperature of the customized policy, reward units."""
    gamma: float = 1.0
    """γ in [0, 1]: discount per token."""
    chi2_coef: float = 0.1
    """β ≥ 0: weight of the squared-reward penalty."""
    sft_coef: float = 0.0
    """μ ≥ 0: weight of the chosen response's negative log-likelihood, in units of α̃."""
    anchor_coef: float = 0.0
    """κ ≥ 0: weight of the anchors' KL to the base, per token."""
    value_state: ValueState = "next"
    """Whose value the reward subtracts: that of the state after a token (`next`) or before it (`same`)."""
    length_normalized: bool = False
    """Whether a response's return is divided by its number of tokens."""

    def __post_init__(self) -> None:
        if self.parametrization not in PARAMETRIZATIONS:
            raise ConfigError(f"parametrization must be one of {PARAMETRIZATIONS}, got {self.parametrization!r}")
        if self.value_state not in VALUE_STATES:
            raise ConfigError(f"value_state must be one of {VALUE_STATES}, got {self.value_state!r}")
        for name, low, high, rule in (
            ("alpha_0", 0.0, math.inf, "finite and ≥ 0"),
            ("alpha_tilde", math.ulp(0.0), math.inf, "finite and > 0"),
            ("gamma", 0.0, 1.0, "between 0 and 1"),
            ("chi2_coef", 0.0, math.inf, "finite and ≥ 0"),
            ("sft_coef", 0.0, math.inf, "finite and ≥ 0"),
            ("anchor_coef", 0.0, math.inf, "finite and ≥ 0"),
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
                raise ConfigError(f"{name} must be a number, {rule}; got {value!r}")

    @property
    def residual_q(self) -> ResidualQ:
        """The weights that define Q̂."""
        return residual_q_function(self.parametrization, self.alpha_tilde)

    @property
    def needs_base_hidden(self) -> bool:
        """Whether the loss needs h₀ itself beside z₀ at the taken tokens and its logsumexp: not at ρ = 1."""
        return bool(self.mixture().base != 0)

    def mixture(
        self, strength: Scalar = 1.0, alpha_0: Scalar | None = None, alpha_tilde: Scalar | None = None
    ) -> Mixture:
        """The policy's weights (a, b) on (z₁, z₀); None keeps the trained constant.

        `alpha_tilde` here is a decoding temperature: the learned Q̂ keeps the scale it was trained with.
        """
        return policy_mixture(
            self.residual_q,
            alpha_0=self.alpha_0 if alpha_0 is None else alpha_0,
            alpha_tilde=self.alpha_tilde if alpha_tilde is None else alpha_tilde,
            strength=strength,
        )

"""The decode-time dials: strength, alpha_0, alpha_tilde; checked, and what they ask of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core import Mixture
from ..core.mixture import Scalar
from ..errors import ConfigError
from .lora import Rows

DIALS = ("strength", "alpha_0", "alpha_tilde")
# Weights of this size leave nothing of a policy but its likeliest token; far above them float32 states overflow.
LARGEST_WEIGHT = 1000.0


def rows_needed(mixture: Mixture) -> Rows:
    """Which policies the mixture needs. Tensors are taken to need both: looking would wait for the device."""
    if isinstance(mixture.adapter, Tensor) or isinstance(mixture.base, Tensor):
        return Rows.BOTH
    if mixture.adapter == 0.0 and mixture.base == 0.0:
        raise ConfigError("strength 0 with alpha_0 0 leaves no policy: every token would be equally likely.")
    if mixture.base == 0.0:
        return Rows.ADAPTER
    return Rows.BASE if mixture.adapter == 0.0 else Rows.BOTH


def checked_dial(name: str, value: Scalar | Sequence[float], prompts: int | None = None) -> Scalar:
    """A dial as a float or a float tensor [prompts].

    Raises:
        ConfigError: it is not finite, out of range, or has another number of entries than there are prompts.
    """
    lowest = "> 0" if name == "alpha_tilde" else "≥ 0"
    if not isinstance(value, (int, float)):
        value = torch.as_tensor(value, dtype=torch.float32)
    entries = value.flatten().tolist() if isinstance(value, Tensor) else [value]
    bad = [v for v in entries if not math.isfinite(v) or v < 0 or (name == "alpha_tilde" and v == 0)]
    if bad:
        raise ConfigError(f"{name} must be finite and {lowest}, got {bad[0]}")
    if isinstance(value, Tensor) and value.ndim != 1:
        raise ConfigError(
            f"{name} must be a number or one number per prompt, got a tensor of shape {tuple(value.shape)}"
        )
    if isinstance(value, Tensor) and prompts is not None and len(value) != prompts:
        plural = "" if prompts == 1 else "s"
        raise ConfigError(
            f"{name} has {len(value)} numbers for {prompts} prompt{plural}: give one number, or one per prompt"
        )
    return value


def check_mixture(mixture: Mixture) -> None:
    """Refuse weights that leave a row no policy, or are extreme. Tensors are read, which waits for their device.

    Raises:
        ConfigError: both weights of a row are 0, or one is beyond ±`LARGEST_WEIGHT` or no number.
    """
    weights = torch.broadcast_tensors(*(torch.as_tensor(weight, dtype=torch.float64) for weight in mixture))
    for row in zip(*(weight.flatten().tolist() for weight in weights), strict=True):
        rows_needed(Mixture(*row))
        if not all(abs(weight) <= LARGEST_WEIGHT for weight in row):
            raise ConfigError(
                f"strength, alpha_0 and alpha_tilde give the policy softmax({row[0]:.3g}·z₁ + {row[1]:.3g}·z₀); "
                f"weights beyond ±{LARGEST_WEIGHT:g} are refused."
            )

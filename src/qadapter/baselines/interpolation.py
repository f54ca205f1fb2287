"""Post-hoc interpolation between the base and a trained LoRA, without training again.

Of logits: `strength` of the model does it, log π ∝ s·z₁ + (1 − s)·z₀ (decoding-time realignment, arXiv 2402.02992). Of
weights: W + s·B·A, here; it decodes with one policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConfigError
from ..model import QAdapterForCausalLM


@contextmanager
def scaled_adapter(model: QAdapterForCausalLM, scale: float) -> Iterator[QAdapterForCausalLM]:
    """Inside, the LoRA's product is multiplied by `scale`: the policy at strength 1 is that of W + scale·B·A.

    The scalings are restored exactly, also after an exception. Strength 0 stays the base.

    Args:
        model: with a policy that is the LoRA's own, so α₀ = α̃ and parametrization residual.
        scale: 0 the base, 1 what was trained, above 1 extrapolates.

    Raises:
        ConfigError: a negative or infinite scale, or a policy that mixes in the base at strength 1.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise ConfigError(f"the scale of an adapter must be finite and ≥ 0, got {scale}")
    if tuple(model.constants.mixture(1.0)) != (1.0, 0.0):
        raise ConfigError(
            "interpolation of weights needs a policy that is the adapter's own softmax(z₁): parametrization residual "
            f"with alpha_0 = alpha_tilde, got {model.constants}.",
            hint="interpolate logits: that is what strength does",
        )
    layers = list(model.row_router.layers)  # fold() in the body gives them up
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update({name: scale * value for name, value in scaling.items()})
        yield model
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)

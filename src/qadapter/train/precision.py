"""Which dtypes of the frozen weights can be trained on."""

from __future__ import annotations

import torch

from ..errors import ConfigError


def refuse_float16(dtype: torch.dtype) -> None:
    """Raise `ConfigError` for float16: gradients of activations have the weights' dtype, and no loss is scaled."""
    if dtype == torch.float16:
        raise ConfigError(
            "the base's weights are float16, in which small gradients vanish: the loss is not scaled.",
            hint="load it with dtype bfloat16 or float32",
        )

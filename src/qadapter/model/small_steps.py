"""LoRA layers while tokens are decoded one by one.

A step multiplies a handful of rows. Then looking up a layer's weights, casting them and calling modules takes longer
than the products: weights are looked up once for a whole generation, the low-rank factors are multiplied in float32 as
they are stored, and layers that read the same tensor (q, k and v; gate and up) cast it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .lora import RowRouter, Rows, is_plain, row_sliced_forward

# Above this, casting the factors down to the activations' dtype costs less than the slower float32 products.
_FEW_ROWS = 16


@contextmanager
def small_steps(router: RowRouter) -> Iterator[None]:
    """Run the body, which must not change the adapter, with the layers of `router` made for small steps.

    What was set before is restored also after an exception; inside itself it changes nothing.
    """
    layers = [layer for layer in router.layers if _can_be_bound(layer)]
    before = [layer.forward for layer in layers]
    widened = _Widened()
    for layer in layers:
        layer.forward = _bound_forward(layer, router, widened)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            layer.forward = forward


class _Widened:
    """The last routed input in float32 or wider."""

    def __init__(self) -> None:
        self._x: Tensor | None = None
        self._wide: Tensor | None = None

    def __call__(self, x: Tensor, rows: int) -> Tensor:
        if self._x is not x or self._wide is None:
            self._x, self._wide = x, x[:rows].to(torch.promote_types(x.dtype, torch.float32))
        return self._wide


def _can_be_bound(layer: LoraLayer) -> bool:
    """Whether the layer is a plain linear product plus that of one adapter, and nobody listens to the base layer."""
    base = layer.base_layer
    return (
        is_plain(layer)
        and not layer.training
        and type(base) is nn.Linear
        and not (base._forward_hooks or base._forward_pre_hooks or hasattr(base, "_hf_hook"))
        and sum(name in layer.lora_A for name in layer.active_adapters) == 1
    )


def _bound_forward(layer: LoraLayer, router: RowRouter, widened: _Widened) -> Callable[..., Tensor]:
    name = next(name for name in layer.active_adapters if name in layer.lora_A)
    weight, base_bias, scaling = layer.base_layer.weight, layer.base_layer.bias, layer.scaling[name]
    wide = torch.promote_types(weight.dtype, torch.float32)
    a = layer.lora_A[name].weight.to(wide)
    # [r, out] in memory: a product with a vector runs along its rows.
    b = (scaling * layer.lora_B[name].weight.to(wide)).t().contiguous()
    bias = None if layer.lora_B[name].bias is None else scaling * layer.lora_B[name].bias.to(wide)
    few = _FEW_ROWS * weight.shape[1]

    def forward(x: Tensor) -> Tensor:
        rows = router.rows
        if rows is not Rows.BASE and (x.numel() > few or x.ndim != 3):
            return row_sliced_forward(layer, x)
        out = F.linear(x, weight, base_bias)
        if rows is Rows.BASE:
            return out
        routed = len(x) if rows is Rows.ADAPTER else len(x) // 2
        update = F.linear(widened(x, routed), a) @ b
        out[:routed].add_(update if bias is None else update + bias)
        return out

    return forward

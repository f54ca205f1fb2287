"""LoRA layers while tokens are decoded one by one.

A step multiplies a handful of rows. Then looking up a layer's weights, casting them and calling one product after the
other takes longer than the arithmetic. So weights are looked up once for a whole generation, layers that read the same
tensor (q, k and v; gate and up) are multiplied as one, and the low-rank factors in float32, as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .lora import RowRouter, Rows, is_plain, row_sliced_forward

# Above this, casting the factors down to the activations' dtype costs less than the slower float32 products.
_FEW_ROWS = 16
# Children of one module that it calls one after the other on the same tensor, in this order.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextmanager
def small_steps(router: RowRouter) -> Iterator[None]:
    """Run the body, which must not change the adapter, with the layers of `router` made for small steps.

    The forward of each layer is restored, also after an exception; inside itself this changes nothing. The frozen
    weights of siblings are moved next to each other in memory, once, and stay there: the same parameters with the same
    values, as slices of one tensor.
    """
    before = [(layer, layer.forward) for layer in router.layers if _can_be_bound(layer)]
    bound = {id(layer) for layer, _ in before}
    for group in _groups(router.model, router.layers):
        members = [layer for layer in group if id(layer) in bound]
        if members:
            product = _OneProduct(members, router)
            for index, layer in enumerate(members):
                layer.forward = partial(product, index)
    try:
        yield
    finally:
        for layer, forward in before:
            layer.forward = forward


class _OneProduct:
    """Layers that read the same tensor, as one linear product plus one low-rank product on the routed rows.

    The first layer's call computes the outputs of all; the calls that follow on the same tensor take their slices.
    """

    def __init__(self, layers: Sequence[LoraLayer], router: RowRouter) -> None:
        names = [next(name for name in layer.active_adapters if name in layer.lora_A) for layer in layers]
        linears = [layer.base_layer for layer in layers]
        self.layers, self.router = layers, router
        self.sizes = [linear.out_features for linear in linears]
        self.weight = _side_by_side([linear.weight for linear in linears])
        self.base_bias = _stacked_bias([linear.bias for linear in linears], self.sizes, self.weight)
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        factors = [
            (layer.scaling[name], layer.lora_A[name], layer.lora_B[name])
            for name, layer in zip(names, layers, strict=True)
        ]
        self.a = torch.cat([a.weight.to(wide) for _, a, _ in factors])
        # [ranks, outputs] in memory: a product with a vector runs along its rows.
        self.b = torch.block_diag(*[scaling * b.weight.to(wide).t() for scaling, _, b in factors]).contiguous()
        biases = [None if b.bias is None else scaling * b.bias.to(wide) for scaling, _, b in factors]
        self.bias = _stacked_bias(biases, self.sizes, self.a)
        self.few = _FEW_ROWS * self.weight.shape[1]
        self._read: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, index: int, x: Tensor) -> Tensor:
        rows = self.router.rows
        if rows is not Rows.BASE and (x.numel() > self.few or x.ndim != 3):
            return row_sliced_forward(self.layers[index], x)
        if index == 0 or self._read is not x:
            self._read, self._outputs = x, self._compute(x, rows).split(self.sizes, dim=-1)
        outputs = self._outputs
        if index == len(self.layers) - 1:
            self._read, self._outputs = None, ()  # nothing outlives the step
        return outputs[index]

    def _compute(self, x: Tensor, rows: Rows) -> Tensor:
        out = F.linear(x, self.weight, self.base_bias)
        if rows is not Rows.BASE:
            routed = len(x) if rows is Rows.ADAPTER else len(x) // 2
            update = F.linear(x[:routed].to(self.a.dtype), self.a) @ self.b
            out[:routed].add_(update if self.bias is None else update + self.bias)
        return out


def _groups(model: nn.Module, layers: Sequence[LoraLayer]) -> list[list[LoraLayer]]:
    """The layers, siblings together."""
    routed = {id(layer) for layer in layers}
    groups: list[list[LoraLayer]] = []
    for parent in model.modules():
        for names in _SIBLINGS:
            children = [getattr(parent, name, None) for name in names]
            groups.append([child for child in children if id(child) in routed])
    grouped = {id(layer) for group in groups for layer in group}
    return groups + [[layer] for layer in layers if id(layer) not in grouped]


def _side_by_side(weights: Sequence[nn.Parameter]) -> Tensor:
    """[all outputs, inputs] without a second copy of the weights: they become slices of the result."""
    inputs = weights[0].shape[1]
    sizes = [len(weight) for weight in weights]
    if all(_follows(weight, before) for before, weight in pairwise(weights)) and weights[0].is_contiguous():
        return weights[0].detach().as_strided((sum(sizes), inputs), (inputs, 1))
    together = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, together.split(sizes), strict=True):
        weight.data = part
    return together


def _follows(weight: Tensor, before: Tensor) -> bool:
    """Whether a weight lies in memory where the one before it ends."""
    return (
        weight.untyped_storage().data_ptr() == before.untyped_storage().data_ptr()
        and weight.storage_offset() == before.storage_offset() + before.numel()
        and weight.dtype == before.dtype
        and weight.is_contiguous()
    )


def _stacked_bias(biases: Sequence[Tensor | None], sizes: Sequence[int], like: Tensor) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    parts = [like.new_zeros(size) if bias is None else bias.detach() for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat(parts)


def _can_be_bound(layer: LoraLayer) -> bool:
    """Whether the layer is a plain linear product plus that of one adapter, and nobody listens to the base layer."""
    base = layer.base_layer
    return (
        is_plain(layer)
        and not layer.training
        and type(base) is nn.Linear
        and type(base.weight.data) is Tensor  # not a quantized one
        and not (base._forward_hooks or base._forward_pre_hooks or hasattr(base, "_hf_hook"))
        and sum(name in layer.lora_A for name in layer.active_adapters) == 1
    )

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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .lora import Routing, RowRouter, Rows, is_plain, routed_parts, row_sliced_forward

# Above this, casting the factors down to the activations' dtype costs less than the slower float32 products.
_FEW_ROWS = 32
# Children of one module that it calls one after the other on the same tensor, in this order.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextmanager
def small_steps(router: RowRouter) -> Iterator[None]:
    """Run the body, which must not change the adapter, with the layers of `router` made for small steps.

    The forward of each layer is restored, also after an exception; inside itself this changes nothing. The frozen
    weights of siblings are moved next to each other in memory, once, and stay there: the same parameters with the same
    values, as slices of one tensor. The products are kept on the router with their factors in float32: compiled code
    that has seen them holds for the next generation.
    """
    layers = [layer for layer in router.layers if _can_be_bound(layer)]
    # What is kept must not be of inference mode: weights made there could not be trained on.
    with torch.inference_mode(False), torch.no_grad():
        if router.products is None or not router.products.are_of(layers):
            router.products = _Products(layers, router)
        router.products.read_factors()
    before = [(layer, layer.forward) for layer in layers]
    for layer, forward in router.products.forwards:
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in before:
            layer.forward = forward


class _Products:
    """The products of a model's layers, for as long as the layers keep their weights' places and their adapter."""

    def __init__(self, layers: Sequence[LoraLayer], router: RowRouter) -> None:
        bound = {id(layer) for layer in layers}
        groups = [[layer for layer in group if id(layer) in bound] for group in _groups(router.model, router.layers)]
        products = [_OneProduct(group, router) for group in groups if group]
        self.products = products
        self.forwards = [
            (layer, partial(product, index)) for product in products for index, layer in enumerate(product.layers)
        ]
        self._identity = _identity(layers)

    def are_of(self, layers: Sequence[LoraLayer]) -> bool:
        """Whether nothing but the values of the factors can differ."""
        return self._identity == _identity(layers)

    def read_factors(self) -> None:
        """Take over what was trained meanwhile."""
        for product in self.products:
            product.read_factors()


def _identity(layers: Sequence[LoraLayer]) -> list[tuple]:
    return [
        (
            *(id(layer), tuple(layer.active_adapters), *_shapes(layer)),
            *(layer.base_layer.weight.data_ptr(), layer.base_layer.weight.dtype, layer.base_layer.weight.device),
        )
        for layer in layers
    ]


def _shapes(layer: LoraLayer) -> list[tuple]:
    return [(name, a.weight.shape, layer.lora_B[name].bias is None) for name, a in layer.lora_A.items()]


class _Factors(NamedTuple):
    """One adapter's factors of all layers of a product, scaled, float32 or wider."""

    a: Tensor
    """[all ranks, inputs]."""
    b: Tensor
    """[all ranks, all outputs], zero outside of the layers' blocks. A product with a vector runs along its rows."""
    bias: Tensor | None
    """[all outputs], or None."""


class _OneProduct:
    """Layers that read the same tensor, as one linear product plus one low-rank product per part of the routed rows.

    The first layer's call computes the outputs of all; the calls that follow on the same tensor take their slices.
    """

    def __init__(self, layers: Sequence[LoraLayer], router: RowRouter) -> None:
        linears = [layer.base_layer for layer in layers]
        self.layers, self.router = layers, router
        self.sizes = [linear.out_features for linear in linears]
        self.weight = _side_by_side([linear.weight for linear in linears])
        self.base_bias = _stacked_bias([linear.bias for linear in linears], self.sizes, self.weight)
        # Of all layers together: an adapter may have factors in some of them only.
        names = dict.fromkeys(name for layer in layers for name in layer.lora_A)
        self.factors = {name: self._empty_factors(name) for name in names}
        self.few = _FEW_ROWS * self.weight.shape[1]
        self._read: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def _empty_factors(self, name: str) -> _Factors:
        with_adapter = [layer for layer in self.layers if name in layer.lora_A]
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        ranks = sum(len(layer.lora_A[name].weight) for layer in with_adapter)
        a = torch.empty(ranks, self.weight.shape[1], dtype=wide, device=self.weight.device)
        has_bias = any(layer.lora_B[name].bias is not None for layer in with_adapter)
        outputs = sum(self.sizes)
        return _Factors(a, a.new_zeros(ranks, outputs), a.new_zeros(outputs) if has_bias else None)

    def read_factors(self) -> None:
        """Copy the layers' factors, in place."""
        for name, factors in self.factors.items():
            rank, output = 0, 0
            for layer, size in zip(self.layers, self.sizes, strict=True):
                if name in layer.lora_A:
                    a, b, scaling = layer.lora_A[name].weight, layer.lora_B[name], layer.scaling[name]
                    factors.a[rank : rank + len(a)] = a
                    factors.b[rank : rank + len(a), output : output + size] = scaling * b.weight.t()
                    if factors.bias is not None and b.bias is not None:
                        factors.bias[output : output + size] = scaling * b.bias
                    rank += len(a)
                output += size

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

    def _compute(self, x: Tensor, rows: Routing) -> Tensor:
        out = F.linear(x, self.weight, self.base_bias)
        active = self.layers[0].active_adapters
        for adapter, start, stop in routed_parts(rows, len(x), active, self.factors):
            a, b, bias = self.factors[adapter]
            update = F.linear(x[start:stop].to(a.dtype), a) @ b
            out[start:stop].add_(update if bias is None else update + bias)
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
    """Whether the layer is a plain linear product plus those of adapters for rows of their own, and nobody listens to
    the base layer."""
    base = layer.base_layer
    return (
        is_plain(layer)
        and not layer.training
        and type(base) is nn.Linear
        and type(base.weight.data) is Tensor  # not a quantized one
        and not (base._forward_hooks or base._forward_pre_hooks or hasattr(base, "_hf_hook"))
        and sum(name in layer.lora_A for name in layer.active_adapters) <= 1  # several would add up
    )

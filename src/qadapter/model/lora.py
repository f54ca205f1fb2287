"""LoRA on some rows of a batch: one set of base weights answers as both policies in one pass.

PEFT makes and stores the LoRA layers; which rows they act on is decided here. `RowRouter` mutates each LoRA layer of
one model by an instance attribute `forward` and nothing else; `remove()` takes it off again.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import UnsupportedModelError


class Rows(Enum):
    """Which rows of the batch get the adapter."""

    ADAPTER = "adapter"
    """All of them: the batch is B rows of the adapter's policy."""
    BASE = "base"
    """None: the batch is B rows of the base policy."""
    BOTH = "both"
    """The first half: the batch is 2B rows, [adapter; base]."""


class RowRouter:
    """The one state that all LoRA layers of a model share.

    At rest it is `ADAPTER`, as in plain PEFT: gradient checkpointing recomputes the adapter's pass during `backward`,
    when no `route` is active. The base pass carries no gradient and is never recomputed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rows = Rows.ADAPTER
        self.model = model
        self.products: Any = None
        """What `small_steps` keeps from one generation to the next."""
        self.layers: list[LoraLayer] = []
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.row_router = self
                module.forward = types.MethodType(row_sliced_forward, module)
                self.layers.append(module)

    @contextmanager
    def route(self, rows: Rows) -> Iterator[None]:
        """Run the body with the adapter on `rows`; what was set before is restored also after an exception."""
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before

    def remove(self) -> None:
        """Give every LoRA layer the forward of its class back."""
        for layer in self.layers:
            del layer.forward, layer.row_router
        self.layers.clear()


def row_sliced_forward(layer: LoraLayer, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The forward of one LoRA layer: base product on all rows, low-rank product on the routed ones."""
    rows = layer.row_router.rows
    if rows is not Rows.ADAPTER and layer.merged:
        raise UnsupportedModelError(
            "the adapter is merged into the base weights, so the base policy is gone.", hint="call unmerge() first"
        )
    if rows is Rows.BASE:
        return layer.base_layer(x, *args, **kwargs)
    if rows is Rows.BOTH and x.ndim != 3:
        raise UnsupportedModelError(
            f"a LoRA layer of type {type(layer.base_layer).__name__} received a {x.ndim}-d input of shape "
            f"{tuple(x.shape)}: its rows cannot be told apart.",
            hint="leave this layer out of lora_target_modules",
        )
    if not is_plain(layer):
        # DoRA and other variants, quantized or merged layers: PEFT's own forward, on the adapter's rows only.
        if rows is Rows.ADAPTER:
            return type(layer).forward(layer, x, *args, **kwargs)
        adapter_x, base_x = x.chunk(2)
        adapter_out = type(layer).forward(layer, adapter_x, *args, **kwargs)
        return torch.cat([adapter_out, layer.base_layer(base_x, *args, **kwargs)])

    out = layer.base_layer(x, *args, **kwargs)
    if rows is Rows.ADAPTER:
        return _add_low_rank(layer, out, x)
    half = x.shape[0] // 2
    _add_low_rank(layer, out[:half], x[:half])  # carries no gradient: both policies at once is for decoding
    return out


def is_plain(layer: LoraLayer) -> bool:
    """Whether the layer's forward is the base product plus one low-rank product, so that rows can be sliced."""
    return isinstance(layer, LoraLinear) and not (layer.lora_variant or layer.merged or layer.disable_adapters)


def _add_low_rank(layer: LoraLinear, out: Tensor, x: Tensor) -> Tensor:
    """out += scaling · B·A·dropout(x), in place, in the dtype of the activations.

    Casting the small float32 factors down is what autocast would do; casting `x` up would keep a second copy of
    every activation for the backward pass.
    """
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        a, b = layer.lora_A[name], layer.lora_B[name]
        low_rank = layer.scaling[name] * F.linear(layer.lora_dropout[name](x), a.weight.to(x.dtype))
        out = _AddProduct.apply(out, low_rank, b.weight.to(x.dtype))
        if b.bias is not None:
            out += layer.scaling[name] * b.bias.to(out.dtype)
    return out


class _AddProduct(torch.autograd.Function):
    """out += x·Wᵀ in one pass over `out`, which is [..., features] and contiguous. x is [..., r], W [features, r].

    As an expression the product and, in the backward pass, its gradient would each be one more tensor of the size of
    `out`: with 7 layers per block that traffic takes longer than the low-rank products.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.mark_dirty(out)
        out.view(-1, out.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]).to(out.dtype), weight.t().to(out.dtype))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1]).to(x.dtype)
        return grad, (flat @ weight).view_as(x), flat.t() @ x.reshape(-1, x.shape[-1])


def default_lora() -> LoraConfig:
    """r=8, alpha=16, no dropout, on all linear layers but the LM head."""
    return LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def check_lora(peft_model: PeftModel) -> None:
    """Refuse what would change the base policy or make the LM heads of the two policies differ."""
    config = peft_model.active_peft_config
    if not isinstance(config, LoraConfig):
        raise UnsupportedModelError(f"the adapter must be a LoRA, got {type(config).__name__}.")
    for field, allowed in (("modules_to_save", None), ("trainable_token_indices", None), ("bias", "none")):
        if (value := getattr(config, field)) and value != allowed:
            raise UnsupportedModelError(
                f"LoRA option {field}={value!r} changes weights of the frozen base, which is also π₀.",
                hint=f"leave {field} at {allowed!r}",
            )
    if isinstance(peft_model.get_base_model().get_output_embeddings(), LoraLayer):
        raise UnsupportedModelError(
            "LoRA on the LM head gives the two policies different heads.",
            hint="leave the output embedding out of lora_target_modules",
        )

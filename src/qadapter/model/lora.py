"""LoRA on some rows of a batch: one set of base weights answers as both policies in one pass.

PEFT makes and stores the LoRA layers; which rows they act on is decided here. `RowRouter` mutates each LoRA layer of
one model by an instance attribute `forward` and nothing else; `remove()` takes it off again.
"""

from __future__ import annotations

import logging
import threading
import types
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from ..errors import ConfigError, UnsupportedModelError
from .frozen_base import in_eval_mode, probe_ids
from .lora_options import check_lora_options

logger = logging.getLogger(__name__)


class Rows(Enum):
    """Which rows of the batch get the adapter."""

    ADAPTER = "adapter"
    """All of them: the batch is B rows of the adapter's policy."""
    BASE = "base"
    """None: the batch is B rows of the base policy."""
    BOTH = "both"
    """The first half: the batch is 2B rows, [adapter; base]."""


class AdapterRows(NamedTuple):
    """A contiguous part of a batch that gets one adapter."""

    adapter: str
    """PEFT's name of it."""
    start: int
    stop: int


Routing = Rows | tuple[AdapterRows, ...]
"""Which rows get which adapter. A tuple names parts in the order of the batch; rows in none are the base policy's."""


class RowRouter:
    """The one state that all LoRA layers of a model share.

    At rest it is `ADAPTER`, as in plain PEFT: gradient checkpointing recomputes the adapter's pass during `backward`,
    when no `route` is active. The base pass carries no gradient and is never recomputed.

    Passes of several threads wait for each other: what is routed is routed for the whole model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rows: Routing = Rows.ADAPTER
        self.lock = threading.RLock()
        """Held while rows are routed, and by `generate` from beginning to end."""
        self.model = model
        self.products: Any = None
        """What `small_steps` keeps from one generation to the next."""
        self.layers: list[LoraLayer] = []
        self.attach()

    def attach(self) -> None:
        """Take over the LoRA layers that have come into the model since."""
        for module in self.model.modules():
            if isinstance(module, LoraLayer) and "row_router" not in vars(module):
                module.row_router = self
                module.forward = types.MethodType(row_sliced_forward, module)
                self.layers.append(module)

    @contextmanager
    def route(self, rows: Routing) -> Iterator[None]:
        """Run the body with the adapter on `rows`; what was set before is restored also after an exception."""
        # Compiled code runs inside of `generate`, which holds the lock.
        with nullcontext() if torch.compiler.is_compiling() else self.lock:
            before, self.rows = self.rows, rows
            try:
                yield
            finally:
                self.rows = before

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    def remove(self) -> None:
        """Give every LoRA layer the forward of its class back."""
        for layer in self.layers:
            del layer.forward, layer.row_router
        self.layers.clear()


def row_sliced_forward(layer: LoraLayer, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The forward of one LoRA layer: base product on all rows, low-rank product on the routed ones."""
    rows: Routing = layer.row_router.rows
    if rows is not Rows.ADAPTER and layer.merged:
        raise UnsupportedModelError(
            "the adapter is merged into the base weights, so the base policy is gone.", hint="call unmerge() first"
        )
    if rows is Rows.BASE:
        return layer.base_layer(x, *args, **kwargs)
    # [rows, …, tokens, features]; the ids of an embedding are [rows, tokens].
    if rows is not Rows.ADAPTER and x.ndim < (3 if x.is_floating_point() else 2):
        raise UnsupportedModelError(
            f"a LoRA layer of type {type(layer.base_layer).__name__} received a {x.ndim}-d input of shape "
            f"{tuple(x.shape)}: its rows cannot be told apart.",
            hint="leave this layer out of lora_target_modules",
        )
    if not is_plain(layer):
        return _rows_through_peft(layer, rows, x, *args, **kwargs)
    out = layer.base_layer(x, *args, **kwargs)
    if rows is Rows.ADAPTER:
        for name in layer.active_adapters:
            out = _add_low_rank(layer, name, out, x) if name in layer.lora_A else out
        return out
    for adapter, start, stop in routed_parts(rows, len(x), layer.active_adapters, layer.lora_A):
        # Carries no gradient: several policies at once are for decoding.
        _add_low_rank(layer, adapter, out[start:stop], x[start:stop])
    return out


def _rows_through_peft(layer: LoraLayer, routing: Routing, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """DoRA and other variants, embeddings, quantized or merged layers: PEFT's own forward, on its rows only."""
    forward = type(layer).forward
    if routing is Rows.ADAPTER:
        return forward(layer, x, *args, **kwargs)
    done, outputs = 0, []
    known = {*layer.lora_A, *layer.lora_embedding_A}
    for adapter, start, stop in routed_parts(routing, len(x), layer.active_adapters, known):
        assert list(layer.active_adapters) == [adapter], "PEFT's forward is that of the active adapter"
        outputs += [layer.base_layer(x[done:start], *args, **kwargs)] if start > done else []
        outputs.append(forward(layer, x[start:stop], *args, **kwargs))
        done = stop
    outputs += [layer.base_layer(x[done:], *args, **kwargs)] if done < len(x) else []
    return torch.cat(outputs)


def routed_parts(routing: Routing, rows: int, active: Sequence[str], known: Container[str]) -> Sequence[AdapterRows]:
    """The parts of a batch that get an adapter in one layer.

    Args:
        routing: what is routed.
        rows: of the batch.
        active: the adapters that `Rows.ADAPTER` and `Rows.BOTH` mean.
        known: the adapters that the layer has factors of; it does nothing to rows of others.
    """
    if routing is Rows.BASE:
        return ()
    if isinstance(routing, Rows):
        stop = rows if routing is Rows.ADAPTER else rows // 2
        routing = tuple(AdapterRows(name, 0, stop) for name in active)
    return [part for part in routing if part.adapter in known and part.stop > part.start]


def is_plain(layer: LoraLayer) -> bool:
    """Whether the layer's forward is the base product plus one low-rank product, so that rows can be sliced."""
    return isinstance(layer, LoraLinear) and not (layer.lora_variant or layer.merged or layer.disable_adapters)


def _add_low_rank(layer: LoraLinear, name: str, out: Tensor, x: Tensor) -> Tensor:
    """out += scaling · B·A·dropout(x), in place, in the dtype of the activations.

    Casting the small float32 factors down is what autocast would do; casting `x` up would keep a second copy of
    every activation for the backward pass.
    """
    a, b = layer.lora_A[name], layer.lora_B[name]
    low_rank = layer.scaling[name] * F.linear(layer.lora_dropout[name](x), a.weight.to(x.dtype))
    # Under autocast the product above is narrower than x, and the backward pass, outside of it, mixes no dtypes.
    out = _AddProduct.apply(out, low_rank, b.weight.to(low_rank.dtype))
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


def lora_config(
    r: int = 8, alpha: int = 16, dropout: float = 0.0, target_modules: Sequence[str] | None = None
) -> LoraConfig:
    """A LoRA of a causal LM; by default on all linear layers but the LM head.

    Args:
        r: rank.
        alpha: the scaling is alpha / r.
        dropout: share of the LoRA's input that is dropped in training.
        target_modules: names of modules, or "all-linear" alone, which is the default.

    Raises:
        ConfigError: a dropout out of range.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"lora_dropout must be at least 0 and below 1, got {dropout:g}")
    names = list(target_modules or ["all-linear"])
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        task_type="CAUSAL_LM",
    )


def put_on(base: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """The base with a LoRA on the modules that the config names; of a name that no module has the log says so.

    Raises:
        ConfigError: none of the names is a module's.
    """
    wanted = getattr(config, "target_modules", None)  # before PEFT writes out what "all-linear" means
    try:
        peft_model = get_peft_model(base, config)
    except ValueError as error:
        raise ConfigError(f"the LoRA does not fit to {type(base).__name__}: {error}", hint=_HINT) from error
    found = getattr(peft_model.base_model, "targeted_module_names", [])
    for name in sorted(wanted) if isinstance(wanted, set | list) else ():
        if not any(module == name or module.endswith(f".{name}") for module in found):
            logger.warning("%s has no module %r: it gets no LoRA.", type(base).__name__, name)
    return peft_model


_HINT = "lora_target_modules names modules such as q_proj; without it all linear layers but the LM head get the LoRA"


def check_lora(peft_model: PeftModel, name: str | None = None) -> None:
    """Refuse what would change the base policy or make the LM heads of the two policies differ.

    Args:
        peft_model: the model.
        name: the adapter; default the active one.

    Raises:
        UnsupportedModelError: it names the option or the layer.
    """
    check_lora_options(peft_model.peft_config[name or peft_model.active_adapter])
    if isinstance(peft_model.get_base_model().get_output_embeddings(), LoraLayer):
        raise UnsupportedModelError(
            "LoRA on the LM head gives the two policies different heads.",
            hint="leave the output embedding out of lora_target_modules",
        )


@torch.no_grad()
def check_rows(base: PreTrainedModel, router: RowRouter) -> None:
    """Decode a few tokens with both policies, so that a layer that cannot is found before it is trained.

    Raises:
        UnsupportedModelError: a LoRA on a layer that does not see which row of the batch a token is of.
    """
    if (ids := probe_ids(base)) is None:
        return
    with in_eval_mode(base), router.route(Rows.BOTH):
        base.base_model(input_ids=ids.expand(2, -1), use_cache=False)

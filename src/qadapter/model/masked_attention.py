"""Attention under a dense mask, as plain matrix products: for training on a CPU.

There torch's fused kernel runs far below the speed of the machine's matrix products (measured: benchmarks/LOG.md). This
computes only what the mask lets through (`attention_blocks`). Like that kernel it keeps nothing of size tokens² per
head or layer, and it also keeps neither the output nor a copy of the keys per head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .attention_blocks import AttentionBlock, attention_blocks

_NAME = "qadapter_masked"
# The masks of the pass that runs, by identity, with their blocks: all layers get the same one or two tensors.
_known_masks: ContextVar[dict[int, tuple[Tensor, list[list[AttentionBlock]]]]] = ContextVar("known_masks")


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, blocks: list[list[AttentionBlock]], scale: float
) -> Tensor:
    """softmax(scale · Q·Kᵀ + mask)·V with gradients for Q, K and V.

    Args:
        query: [rows, heads, queries, head size].
        key: [rows, key heads, keys, head size]; heads are a multiple of key heads.
        value: the same shape.
        blocks: of the mask, from `attention_blocks`; their biases in the dtype of the query.
        scale: of the scores.

    Returns:
        [rows, heads, queries, head size]. Scores are rounded to the dtype of the query, as in transformers' own
        `eager` attention; the softmax is computed in float32 or wider.
    """
    return _MaskedAttention.apply(query, key, value, blocks, scale)


class _MaskedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[list[AttentionBlock]], scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scale = blocks, scale
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for row, blocks_of_row in enumerate(blocks):
            keys, values = _centred(key[row]), value[row].contiguous()
            for block in blocks_of_row:
                k, v = keys[:, block.keys], values[:, block.keys]
                p = _probabilities(_by_key_head(query[row], block, k), k, block, scale)
                out[row, :, block.queries] = torch.bmm(p, v).view(out.shape[1], -1, out.shape[-1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors
        wide = torch.promote_types(key.dtype, torch.float32)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=wide, device=key.device) for _ in range(2))
        for row, blocks_of_row in enumerate(ctx.blocks):
            keys, values = _centred(key[row]), value[row].contiguous()
            for block in blocks_of_row:
                k, v = keys[:, block.keys], values[:, block.keys]
                q, g = _by_key_head(query[row], block, k), _by_key_head(grad[row], block, k)
                p = _probabilities(q, k, block, ctx.scale)
                _add_at(grad_value[row], block.keys, p.mT @ g)
                grad_scores = torch._softmax_backward_data(g @ v.mT, p, -1, p.dtype)
                _add_at(grad_key[row], block.keys, grad_scores.mT @ q)
                product = torch.bmm(grad_scores, k).mul_(ctx.scale)
                grad_query[row, :, block.queries] = product.view(query.shape[1], -1, query.shape[-1])
        return grad_query, grad_key.mul_(ctx.scale).to(key.dtype), grad_value.to(value.dtype), None, None


def _by_key_head(heads: Tensor, block: AttentionBlock, key: Tensor) -> Tensor:
    """[heads, queries, head size] → the block's, [key heads, heads per key head · queries, head size]."""
    return heads[:, block.queries].reshape(len(key), -1, heads.shape[-1])


def _centred(key: Tensor) -> Tensor:
    """The keys less their mean: it moves all scores of a query alike, which the softmax does not see, and smaller
    scores lose less when they are rounded."""
    wide = key.to(torch.promote_types(key.dtype, torch.float32))
    return (wide - wide.mean(dim=1, keepdim=True)).to(key.dtype)


def _probabilities(q: Tensor, key: Tensor, block: AttentionBlock, scale: float) -> Tensor:
    """[key heads, heads per key head · queries, keys]."""
    return torch.baddbmm(block.bias.expand(len(key), -1, -1), q, key.mT, alpha=scale).softmax(dim=-1)


def _add_at(total: Tensor, keys: slice | Tensor, part: Tensor) -> None:
    if isinstance(keys, slice):
        total[:, keys] += part
    else:
        total.index_add_(1, keys, part.to(total.dtype))


@contextmanager
def matrix_attention(base: PreTrainedModel) -> Iterator[None]:
    """Run the body with `masked_attention` where `base` would take torch's fused kernel on a CPU.

    Nothing changes on other devices, for other attention implementations, under activation checkpointing, whose
    second forward pass runs outside of the body, and for models such as Falcon, which go by the name "sdpa" themselves:
    under another one they compute another attention.
    """
    config = base.config.get_text_config()
    fused = base.device.type == "cpu" and config._attn_implementation == "sdpa" and base._supports_attention_backend
    if not fused or base.is_activation_checkpointing:
        yield
        return
    config._attn_implementation = _NAME
    token = _known_masks.set({})
    try:
        yield
    finally:
        _known_masks.reset(token)
        config._attn_implementation = "sdpa"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; torch's where the mask is not one number per query and key."""
    shape = (len(query), 1, query.shape[2], key.shape[2])
    # Latent attention (MLA) has values of another size than its keys; under autocast they may be of another dtype.
    plain = value.shape[-1] == query.shape[-1] and key.dtype == value.dtype == query.dtype and not dropout
    if not plain or attention_mask is None or attention_mask.shape != shape or attention_mask.dtype != query.dtype:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    known = _known_masks.get()
    if id(attention_mask) not in known:
        blocks = attention_blocks(attention_mask, query.shape[1] // key.shape[1])
        known[id(attention_mask)] = attention_mask, blocks  # holds the mask, so that its id stays its own
    return masked_attention(query, key, value, known[id(attention_mask)][1], scale).transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)

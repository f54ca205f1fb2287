"""Attention under a dense mask, as plain matrix products: for training on a CPU.

There torch's fused kernel runs far below the speed of the machine's matrix products (measured: benchmarks/LOG.md). Like
that kernel this keeps nothing of size tokens², and it also keeps neither the output nor a copy of the keys per head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# Scores held at a time; at 2^22 those of a row of some hundred tokens stay in the cache.
_CHUNK_SCORES = 2**22
_NAME = "qadapter_masked"


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(scale · Q·Kᵀ + mask)·V with gradients for Q, K and V.

    Args:
        query: [rows, heads, queries, head size].
        key: [rows, key heads, keys, head size]; heads are a multiple of key heads.
        value: the same shape.
        mask: [rows, 1, queries, keys], added to the scores; in the dtype of the query.
        scale: of the scores.

    Returns:
        [rows, heads, queries, head size]. Scores are rounded to the dtype of the query, as in transformers' own
        `eager` attention; the softmax is computed in float32 or wider.
    """
    return _MaskedAttention.apply(query, key, value, mask, scale)


class _MaskedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for row in range(len(query)):
            k, v = _centred(key[row]), value[row].contiguous()
            q, result = _by_key_head(query[row], k), _by_key_head(out[row], k)
            for at in _chunks(q, k):
                p = _probabilities(q[:, at], k, mask[row], at, scale)
                torch.bmm(p, v, out=result[:, at])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, mask = ctx.saved_tensors
        wide = torch.promote_types(key.dtype, torch.float32)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=wide, device=key.device) for _ in range(2))
        for row in range(len(query)):
            k, v = _centred(key[row]), value[row].contiguous()
            q, g, result = (_by_key_head(heads[row], k) for heads in (query, grad, grad_query))
            for at in _chunks(q, k):
                p = _probabilities(q[:, at], k, mask[row], at, ctx.scale)
                grad_value[row] += p.mT @ g[:, at]
                grad_scores = torch._softmax_backward_data(g[:, at] @ v.mT, p, -1, p.dtype)
                torch.bmm(grad_scores, k, out=result[:, at]).mul_(ctx.scale)
                grad_key[row] += grad_scores.mT @ q[:, at]
        return grad_query, grad_key.mul_(ctx.scale).to(key.dtype), grad_value.to(value.dtype), None, None


def _by_key_head(heads: Tensor, key: Tensor) -> Tensor:
    """[heads, queries, head size] → [key heads, heads per key head · queries, head size]; a view where it can be."""
    return heads.reshape(len(key), -1, heads.shape[-1])


def _centred(key: Tensor) -> Tensor:
    """The keys less their mean: it moves all scores of a query alike, which the softmax does not see, and smaller
    scores lose less when they are rounded."""
    wide = key.to(torch.promote_types(key.dtype, torch.float32))
    return (wide - wide.mean(dim=1, keepdim=True)).to(key.dtype)


def _chunks(q: Tensor, key: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK_SCORES // (len(key) * key.shape[1]))
    for start in range(0, q.shape[1], size):
        yield slice(start, min(start + size, q.shape[1]))


def _probabilities(q: Tensor, key: Tensor, mask: Tensor, at: slice, scale: float) -> Tensor:
    """[key heads, queries of the chunk, keys]."""
    bias = mask[0, torch.arange(at.start, at.stop, device=q.device) % mask.shape[1]]
    return torch.baddbmm(bias.expand(len(key), -1, -1), q, key.mT, alpha=scale).softmax(dim=-1)


@contextmanager
def matrix_attention(base: PreTrainedModel) -> Iterator[None]:
    """Run the body with `masked_attention` where `base` would take torch's fused kernel on a CPU.

    Nothing changes on other devices, for other attention implementations, and under activation checkpointing, whose
    second forward pass runs outside of the body.
    """
    config = base.config.get_text_config()
    if base.device.type != "cpu" or config._attn_implementation != "sdpa" or base.is_activation_checkpointing:
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
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
    if attention_mask is None or attention_mask.shape != shape or attention_mask.dtype != query.dtype or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return masked_attention(query, key, value, attention_mask, scale).transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)

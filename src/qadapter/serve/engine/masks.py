"""Attention masks of rows of different lengths, and the models that they cannot describe."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import UnsupportedModelError
from ...model.shared_prefix import why_not_packable, windows_by_place

_WINDOWED = "sliding_attention"
_KINDS = {"full_attention", _WINDOWED}


def attention_masks(base: PreTrainedModel, at: Tensor, positions: int) -> Tensor | dict[str, Tensor]:
    """What each new token may look at: itself and what stands before it in its own row.

    Args:
        base: the model; its config says which layers have a sliding window.
        at: [rows, queries] position of each new token in its sequence.
        positions: number of keys that the pass reads per row.

    Returns:
        Additive masks [rows, 1, queries, positions] in the base's dtype: one per kind of layer, by its name, where the
        model has kinds of layers; else one.
    """
    config = base.config.get_text_config()
    distance = at[:, None, :, None] - torch.arange(positions, device=at.device)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return _additive(distance, window, base.dtype)
    return {kind: _additive(distance, window if kind == _WINDOWED else None, base.dtype) for kind in set(kinds)}


def _additive(distance: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(distance.shape, dtype=dtype, device=distance.device).masked_fill_(hidden, torch.finfo(dtype).min)


def check_servable(base: PreTrainedModel) -> None:
    """Refuse a model whose attention these masks cannot describe.

    Raises:
        UnsupportedModelError: ALiBi, no position ids, an attention kernel without masks, chunked, local or linear
            attention.
    """
    config = base.config.get_text_config()
    name = type(base).__name__
    reason = why_not_packable(base)
    hint = None
    if windows_by_place(base):
        reason = "its local layers cut their window by the place in the batch, which is behind the end of a short row"
        hint = "use `qadapter generate`, or train on a base without local layers"
    if config._attn_implementation == "flex_attention":
        reason = "FlexAttention would compile a mask for every step"
    if config._attn_implementation not in ("sdpa", "eager"):
        hint = "load the base with attn_implementation='sdpa'"
    unknown = set(getattr(config, "layer_types", None) or ()) - _KINDS
    if unknown or getattr(config, "attention_chunk_size", None):
        reason = f"its layers have {sorted(unknown) or ['chunked_attention']}; served are {sorted(_KINDS)}"
    if reason is not None:
        raise UnsupportedModelError(f"{name} cannot be served in batches that requests join and leave: {reason}.", hint)

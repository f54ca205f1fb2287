"""Prompt, chosen and rejected in one row: the prompt of a pair is read once.

    tokens      p p p c c c c r r     (p prompt, c chosen, r rejected)
    positions   0 1 2 3 4 5 6 3 4     both responses continue the prompt
    attention   causal, and chosen and rejected do not see each other

To rounding this gives the hidden states of the two separate rows. Models whose attention such a mask cannot describe
(a window shorter than the row, ALiBi, kernels without masks, convolutions) keep two rows.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class PackedPairs(NamedTuple):
    """Pairs with one row each."""

    input_ids: Tensor
    """[pairs, length], right-padded with the pair's own tokens (never attended to)."""
    position_ids: Tensor
    """[pairs, length]; a token's position in its own sequence."""
    segments: Tensor
    """[pairs, length]: 0 prompt, 1 chosen, 2 rejected, -1 padding."""


def pack_pairs(input_ids: Tensor, first: Tensor, lengths: Tensor) -> PackedPairs | None:
    """Put each pair into one row.

    Args:
        input_ids: [2·pairs, tokens], chosen rows then rejected rows, right-padded.
        first: [2·pairs] position of the first response token.
        lengths: [2·pairs] number of response tokens.

    Returns:
        The packed rows; None where a chosen and a rejected row do not begin with the same prompt.
    """
    prompt, (chosen, rejected) = first.chunk(2)[0], lengths.chunk(2)
    chosen_ids, rejected_ids = input_ids.chunk(2)
    in_prompt = torch.arange(input_ids.shape[1], device=input_ids.device)[None] < prompt[:, None]
    if not torch.equal(*first.chunk(2)) or bool(((chosen_ids != rejected_ids) & in_prompt).any()):
        return None
    column = torch.arange(int((prompt + chosen + rejected).max()), device=input_ids.device)[None]
    start_of_rejected = (prompt + chosen)[:, None]
    segments = (column >= prompt[:, None]).long() + (column >= start_of_rejected).long()
    segments = segments.masked_fill(column >= start_of_rejected + rejected[:, None], -1)
    position_ids = torch.where(segments < 2, column, column - chosen[:, None]).masked_fill(segments < 0, 0)
    ids = torch.where(segments < 2, chosen_ids.gather(1, position_ids), rejected_ids.gather(1, position_ids))
    return PackedPairs(ids, position_ids, segments)


def visible_in_packed_rows(segments: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Which keys a query of a packed row may look at.

    Args:
        segments: [pairs, length].

    Returns:
        A function of row, head (not used), query and key, index tensors that broadcast, to bool: a `mask_mod` of
        FlexAttention.
    """

    def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_key = segments[row, key]
        shared = (of_key == 0) | (of_key == segments[row, query])
        # Padding looks at itself, or its softmax would be over nothing.
        return ((query >= key) & shared & (of_key >= 0)) | (query == key)

    return visible


def packed_block_mask(segments: Tensor) -> BlockMask:
    """The mask of packed rows for FlexAttention, which skips the blocks in which nothing is visible."""
    pairs, length = segments.shape
    return create_block_mask(visible_in_packed_rows(segments), pairs, None, length, length, device=segments.device.type)


def packed_attention_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask of packed rows.

    Args:
        segments: [pairs, length].
        dtype: of the hidden states.

    Returns:
        [pairs, 1, length, length]: 0 where a query may look, the dtype's lowest number elsewhere.
    """
    row, column = (torch.arange(size, device=segments.device) for size in segments.shape)
    allowed = visible_in_packed_rows(segments)(row[:, None, None], row, column[:, None], column)
    return torch.zeros(allowed.shape, dtype=dtype, device=segments.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )[:, None]


def packed_states(first: Tensor, lengths: Tensor, row: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Where the states of responses lie in packed rows.

    Args:
        first: [2·pairs] position of the first response token in its own sequence.
        lengths: [2·pairs] number of response tokens.
        row: [states] response of the state, chosen responses first.
        t: [states] 0 for the state before the first token, up to the response's length for the one after its last.

    Returns:
        Packed row and column of each state.
    """
    pairs = len(first) // 2
    column = first[row] - 1 + t
    # The first state of a rejected response is the prompt's last token, which stands before the chosen response.
    return row % pairs, torch.where((row >= pairs) & (t > 0), column + lengths[row % pairs], column)


def why_not_packable(base: PreTrainedModel) -> str | None:
    """The reason why a model's attention cannot take packed rows; None where it can."""
    config = base.config.get_text_config()
    if base.config._attn_implementation not in ("sdpa", "eager", "flex_attention"):
        return f"its attention implementation {base.config._attn_implementation!r} takes no mask of its own"
    if getattr(config, "alibi", False) or getattr(config, "position_embedding_type", None) == "alibi":
        return "its positions are ALiBi biases"
    for kind in getattr(config, "layer_types", None) or ():
        if "attention" not in kind or "linear" in kind:
            return f"its {kind!r} layers mix neighbouring tokens whatever the mask says"
    if "position_ids" not in inspect.signature(base.base_model.forward).parameters:
        return "it takes no position ids"
    return None


def windows_by_place(base: PreTrainedModel) -> bool:
    """Whether layers cut their window by a key's place in the row, and not by its position: GPT-Neo's local ones."""
    return "local" in getattr(base.config.get_text_config(), "attention_layers", ())


def shortest_window(base: PreTrainedModel) -> int | None:
    """The longest row of which each token attends to all before it; None where every row is one.

    The size of the sliding window; of GPT-Neo also of the causal mask that it holds itself, for its positions.
    """
    config = base.config.get_text_config()
    if config.model_type == "gpt_neo":
        positions = config.max_position_embeddings
        return min(config.window_size, positions) if windows_by_place(base) else positions
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and not any("sliding" in kind or "chunked" in kind for kind in kinds):
        return None
    if any("chunked" in kind for kind in kinds or ()):
        window = min(window or config.attention_chunk_size, config.attention_chunk_size)
    return window

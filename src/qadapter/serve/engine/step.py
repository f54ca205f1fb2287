"""One pass of the model over rows of both policies, and the mixture of what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core import Mixture
from ...model import QAdapterForCausalLM
from ...model.lora import AdapterRows
from .kv_rows import KVRows
from .masks import attention_masks


def hidden_states(
    model: QAdapterForCausalLM, cache: KVRows, tokens: Sequence[Sequence[int]], routing: tuple[AdapterRows, ...]
) -> Tensor:
    """Read new tokens.

    Args:
        model: the base with its adapters.
        cache: grows by the tokens.
        tokens: [rows][...] token ids, at least one for each row of the cache.
        routing: which rows get which adapter; the others are the base policy's.

    Returns:
        [rows, columns, hidden] final hidden states; columns are the most tokens of a row, and a row with fewer has
        something else behind them.
    """
    new = [len(of_row) for of_row in tokens]
    ids = torch.tensor([[*of_row, *[0] * (max(new) - len(of_row))] for of_row in tokens], device=model.device)
    at = cache.begin(new, ids.device)
    with model.row_router.route(routing):
        output = model.base.base_model(
            input_ids=ids,
            attention_mask=attention_masks(model.base, at, cache.positions),
            position_ids=at,
            past_key_values=cache,
            use_cache=True,
        )
    return output.last_hidden_state


def mixed_logits(
    model: QAdapterForCausalLM,
    hidden: Tensor,
    rows: Sequence[tuple[int | None, int | None]],
    mixtures: Sequence[Mixture],
) -> Tensor:
    """The logits of the mixed policies, by one product with the LM head.

    Args:
        model: whose LM head is meant.
        hidden: [rows, hidden] states of one token per row.
        rows: of each choice, the row of the adapter's and of the base's policy; None where its weight is 0.
        mixtures: of each choice, numbers.

    Returns:
        [choices, vocabulary], float32.
    """
    # A row that is not there has weight 0: its partner's states will do in its place.
    adapter = [base if adapter is None else adapter for adapter, base in rows]
    base = [adapter if base is None else base for adapter, base in rows]
    weights = Mixture(*(torch.tensor(weight, device=hidden.device) for weight in zip(*mixtures, strict=True)))
    return model.head.mixed_logits(hidden[adapter], hidden[base], weights).float()

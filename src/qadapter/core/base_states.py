"""What the frozen base contributes to the loss in each state: constants, whatever the adapter has learned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .chunked_logsumexp import CHUNK_ELEMENTS, chunked_logsumexp
from .lm_head import LMHead


class BaseStates(NamedTuple):
    """The base policy in the states in which tokens were taken: two numbers each, and h₀ where the mixture needs it."""

    action_logits: Tensor
    """z₀(s_t, a_t), [tokens], float32 or wider."""
    logsumexp: Tensor
    """logsumexp z₀(s_t, ·), [tokens], float32 or wider."""
    hidden: Tensor | None
    """h₀, [tokens, hidden], in the dtype of the model; None where the policy's mixture has no weight on z₀."""


@torch.no_grad()
def base_states(
    hidden: Tensor, head: LMHead, actions: Tensor, *, keep_hidden: bool, chunk_elements: int = CHUNK_ELEMENTS
) -> BaseStates:
    """The base's part of the loss from its hidden states; chunked over tokens and vocabulary.

    Args:
        hidden: h₀, [tokens, hidden].
        head: the frozen LM head.
        actions: [tokens] int64, the taken tokens.
        keep_hidden: whether the result carries h₀; needed where the policy's mixture has a weight on z₀.
        chunk_elements: largest number of logits held at a time; results do not depend on it beyond rounding.

    Returns:
        The states, without gradients.
    """
    logsumexp, _ = chunked_logsumexp(hidden, head, chunk_elements=chunk_elements)
    return BaseStates(head.logits_at(hidden, actions), logsumexp, hidden if keep_hidden else None)

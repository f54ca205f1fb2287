"""The whole objective of a batch of pairs, as named terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .chi2 import chi2_penalty
from .preference_loss import bradley_terry_loss, discounted_return
from .reward import implied_rewards, next_state_values


class ObjectiveTerms(NamedTuple):
    """The objective and what it is made of, one value per pair: every field is [pairs]."""

    loss: Tensor
    """preference_loss + chi2_coef · chi2; of an anchor anchor_coef · chi2."""
    preference_loss: Tensor
    """−log σ(return_chosen − return_rejected); without meaning for an anchor."""
    chi2: Tensor
    """Mean squared reward over the tokens of both responses."""
    return_chosen: Tensor
    """Discounted return of the chosen response, reward units."""
    return_rejected: Tensor
    """Discounted return of the rejected response, reward units."""


def preference_objective(
    q_t: Tensor,
    v_t: Tensor,
    lengths: Tensor,
    terminated: Tensor,
    anchor: Tensor | None = None,
    *,
    gamma: float,
    chi2_coef: float,
    anchor_coef: float = 0.0,
) -> ObjectiveTerms:
    """L = −log σ(Σ_t γ^t r_t^chosen − Σ_t γ^t r_t^rejected) + β·E[r²], with r_t = Q̂_t − γ·Ṽ_{t+1}.

    Of an anchor, a pair of the base's own answers to a prompt that the preference says nothing about, L = κ·E[r²]:
    there the residual reward is zero.

    Args:
        q_t: [2·pairs, tokens] Q̂ of the taken tokens; the chosen responses first, then the rejected ones.
        v_t: [2·pairs, tokens + 1] soft values of the states before each token, and of the state after the last.
        lengths: [2·pairs] number of tokens of each response, at least 1.
        terminated: [2·pairs] bool, True where a response ended by itself (its next value is zero).
        anchor: [pairs] bool, True where the pair is an anchor; None for no anchors.
        gamma: discount γ in [0, 1].
        chi2_coef: β ≥ 0.
        anchor_coef: κ ≥ 0.

    Returns:
        The terms, each [pairs].

    Raises:
        ValueError: an odd number of rows, or a response without tokens.

    Source: Q-Adapter (arXiv 2407.03856), the objective; the anchors are this project's.
    """
    if q_t.shape[0] % 2:
        raise ValueError(f"q_t must hold chosen and rejected rows, an even number; got {q_t.shape[0]} rows")
    if bool((lengths < 1).any()):
        empty = torch.nonzero(lengths < 1).flatten().tolist()
        raise ValueError(f"every response needs at least one unmasked token; rows {empty} have none")
    mask = torch.arange(q_t.shape[1], device=q_t.device)[None, :] < lengths[:, None]
    r_t = implied_rewards(q_t, next_state_values(v_t, lengths, terminated), gamma=gamma)

    r_chosen_t, r_rejected_t = r_t.chunk(2)
    mask_chosen, mask_rejected = mask.chunk(2)
    return_chosen, return_rejected = discounted_return(r_t, mask, gamma=gamma).chunk(2)
    preference_loss = bradley_terry_loss(return_chosen, return_rejected)
    chi2 = chi2_penalty(r_chosen_t, mask_chosen, r_rejected_t, mask_rejected)
    loss = preference_loss + chi2_coef * chi2
    return ObjectiveTerms(
        loss=loss if anchor is None else torch.where(anchor, anchor_coef * chi2, loss),
        preference_loss=preference_loss,
        chi2=chi2,
        return_chosen=return_chosen,
        return_rejected=return_rejected,
    )

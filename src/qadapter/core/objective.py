"""The whole objective of a batch of pairs, as named terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .chi2 import chi2_penalty
from .chosen_nll import chosen_nll
from .preference_loss import bradley_terry_loss, discounted_return
from .reward import ValueState, implied_rewards, next_state_values


class ObjectiveTerms(NamedTuple):
    """The objective and what it is made of, one value per pair: every field is [pairs]."""

    loss: Tensor
    """preference_loss + chi2_coef · chi2 + sft_coef · chosen_nll (divided by its length where length_normalized)."""
    preference_loss: Tensor
    """−log σ(return_chosen − return_rejected)."""
    chi2: Tensor
    """Mean squared reward over the tokens of both responses."""
    chosen_nll: Tensor
    """−log π̃ of the chosen response, nats."""
    return_chosen: Tensor
    """Discounted return of the chosen response, reward units."""
    return_rejected: Tensor
    """Discounted return of the rejected response, reward units."""


def preference_objective(
    q_t: Tensor,
    v_t: Tensor,
    policy_logp_t: Tensor,
    lengths: Tensor,
    terminated: Tensor,
    *,
    gamma: float,
    chi2_coef: float,
    sft_coef: float = 0.0,
    value_state: ValueState = "next",
    length_normalized: bool = False,
) -> ObjectiveTerms:
    """L = −log σ(Σ_t γ^t r_t^chosen − Σ_t γ^t r_t^rejected) + β·E[r²] − μ·log π̃^chosen, with r_t = Q̂_t − γ·Ṽ_{t+1}.

    With `value_state` "same" it is r_t = Q̂_t − Ṽ_t = α̃·log π̃ − α₀·log π₀, as in the official code. At γ = 1 and for
    responses that ended the margin is the same; the penalty is not.

    Args:
        q_t: [2·pairs, tokens] Q̂ of the taken tokens; the chosen responses first, then the rejected ones.
        v_t: [2·pairs, tokens + 1] soft values of the states before each token, and of the state after the last.
        policy_logp_t: [2·pairs, tokens] log π̃ of the taken tokens.
        lengths: [2·pairs] number of tokens of each response, at least 1.
        terminated: [2·pairs] bool, True where a response ended by itself (its next value is zero).
        gamma: discount γ in [0, 1].
        chi2_coef: β ≥ 0.
        sft_coef: μ ≥ 0: weight of the chosen response's negative log-likelihood, reward units per nat; no part of the
            paper.
        value_state: the state whose value is subtracted: the one after the token ("next") or before it ("same").
        length_normalized: whether a response's return is divided by its own number of tokens, and with it the chosen
            response's likelihood in the loss.

    Returns:
        The terms, each [pairs].

    Raises:
        ValueError: an odd number of rows, or a response without tokens.

    Source: Q-Adapter (arXiv 2407.03856), the objective.
    """
    if q_t.shape[0] % 2:
        raise ValueError(f"q_t must hold chosen and rejected rows, an even number; got {q_t.shape[0]} rows")
    if bool((lengths < 1).any()):
        empty = torch.nonzero(lengths < 1).flatten().tolist()
        raise ValueError(f"every response needs at least one unmasked token; rows {empty} have none")
    mask = torch.arange(q_t.shape[1], device=q_t.device)[None, :] < lengths[:, None]
    if value_state == "next":
        r_t = implied_rewards(q_t, next_state_values(v_t, lengths, terminated), gamma=gamma)
    else:
        r_t = q_t - v_t[:, :-1]

    r_chosen_t, r_rejected_t = r_t.chunk(2)
    mask_chosen, mask_rejected = mask.chunk(2)
    returns = discounted_return(r_t, mask, gamma=gamma)
    return_chosen, return_rejected = (returns / lengths if length_normalized else returns).chunk(2)
    preference_loss = bradley_terry_loss(return_chosen, return_rejected)
    chi2 = chi2_penalty(r_chosen_t, mask_chosen, r_rejected_t, mask_rejected)
    nll = chosen_nll(policy_logp_t.chunk(2)[0], mask_chosen)
    # Like is weighed against like: a whole response's return against its likelihood, or both by the token.
    likelihood_loss = nll / lengths.chunk(2)[0] if length_normalized else nll
    return ObjectiveTerms(
        loss=preference_loss + chi2_coef * chi2 + sft_coef * likelihood_loss,
        preference_loss=preference_loss,
        chi2=chi2,
        chosen_nll=nll,
        return_chosen=return_chosen,
        return_rejected=return_rejected,
    )

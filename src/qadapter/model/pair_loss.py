"""The loss of a batch of pairs, from the hidden states of both policies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import LMHead, preference_objective, token_values
from ..errors import DataError
from .constants import QConstants
from .shared_prefix import packed_states


class PreferenceOutput(NamedTuple):
    """The loss of a batch of pairs and its terms. All but `loss` are [pairs]; only the losses carry gradients."""

    loss: Tensor
    """Mean of `pair_loss` over the pairs of this batch."""
    pair_loss: Tensor
    """preference_loss + chi2_coef · chi2, nats; carries gradients."""
    preference_loss: Tensor
    """−log σ(margin), nats."""
    chi2: Tensor
    """Mean squared reward over the pair's tokens."""
    return_chosen: Tensor
    """Discounted return of the chosen response, reward units."""
    return_rejected: Tensor
    """Discounted return of the rejected response, reward units."""
    logp_chosen: Tensor
    """log π̃(chosen response | prompt), nats."""
    logp_rejected: Tensor
    """log π̃(rejected response | prompt), nats."""
    base_logp_chosen: Tensor
    """log π₀(chosen response | prompt), nats."""
    base_logp_rejected: Tensor
    """log π₀(rejected response | prompt), nats."""
    q_mean: Tensor
    """Mean Q̂ of the pair's tokens, reward units."""
    v_mean: Tensor
    """Mean Ṽ of the states in which the pair's tokens were taken, reward units."""


def response_spans(completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the response of each row begins and how long it is.

    Args:
        completion_mask: [rows, tokens] bool, True at the tokens of the response (a contiguous run).

    Returns:
        First positions and lengths, each [rows].

    Raises:
        DataError: a row without prompt or without response tokens.
    """
    lengths, first = completion_mask.sum(dim=1), completion_mask.int().argmax(dim=1)
    empty = (lengths == 0) | (first == 0)
    if bool(empty.any()):
        raise DataError(
            f"rows {empty.nonzero().flatten().tolist()} of the batch have no response token, or no prompt token "
            "before it.",
            hint="raise max_length, or check the file with `qadapter data check`",
        )
    return first, lengths


def pair_loss(
    adapter_hidden: Tensor,
    base_hidden: Tensor,
    head: LMHead,
    constants: QConstants,
    *,
    input_ids: Tensor,
    first: Tensor,
    lengths: Tensor,
    terminated: Tensor,
    packed: bool,
) -> PreferenceOutput:
    """The objective and its terms.

    Args:
        adapter_hidden: h₁, [rows, positions, hidden]: 2·pairs rows, or one per pair where `packed`.
        base_hidden: h₀, the same shape.
        head: the frozen LM head.
        constants: of the objective.
        input_ids: [2·pairs, tokens], chosen rows first.
        first: [2·pairs] position of the first response token.
        lengths: [2·pairs] number of response tokens.
        terminated: [2·pairs] bool, False where a response was cut.
        packed: whether the hidden states are of packed rows.
    """
    # State t of a response sits at the position before its token t. A response that was cut has one more state
    # that counts, the one it was left in.
    step = torch.arange(int(lengths.max()) + 1, device=input_ids.device)[None, :]
    is_state = step < (lengths + (~terminated).long())[:, None]
    is_action = step[:, :-1] < lengths[:, None]
    row, t = is_state.nonzero(as_tuple=True)
    position = first[row] - 1 + t
    # The state after the last token has no action; its slot takes the last token, and only its value is used.
    action = input_ids[row, torch.minimum(position + 1, (first + lengths - 1)[row])]
    state = (row, position) if not packed else packed_states(first, lengths, row, t)
    values = token_values(
        adapter_hidden[state],
        base_hidden[state],
        head,
        action,
        residual_q=constants.residual_q,
        alpha_0=constants.alpha_0,
        alpha_tilde=constants.alpha_tilde,
    )
    grids = [torch.zeros(is_state.shape, dtype=v.dtype, device=v.device).index_put((row, t), v) for v in values]
    v_t = grids[1]
    q_t, policy_logp_t, base_logp_t = (grids[i][:, :-1] * is_action for i in (0, 2, 3))
    terms = preference_objective(q_t, v_t, lengths, terminated, gamma=constants.gamma, chi2_coef=constants.chi2_coef)
    logp_chosen, logp_rejected = policy_logp_t.detach().sum(dim=1).chunk(2)
    base_logp_chosen, base_logp_rejected = base_logp_t.detach().sum(dim=1).chunk(2)
    pair_tokens = _both_sides(lengths)
    q_sum, v_sum = q_t.detach().sum(dim=1), (v_t[:, :-1] * is_action).detach().sum(dim=1)
    return PreferenceOutput(
        loss=terms.loss.mean(),
        pair_loss=terms.loss,
        preference_loss=terms.preference_loss.detach(),
        chi2=terms.chi2.detach(),
        return_chosen=terms.return_chosen.detach(),
        return_rejected=terms.return_rejected.detach(),
        logp_chosen=logp_chosen,
        logp_rejected=logp_rejected,
        base_logp_chosen=base_logp_chosen,
        base_logp_rejected=base_logp_rejected,
        q_mean=_both_sides(q_sum) / pair_tokens,
        v_mean=_both_sides(v_sum) / pair_tokens,
    )


def _both_sides(per_response: Tensor) -> Tensor:
    """[2·pairs] → [pairs]: chosen plus rejected."""
    chosen, rejected = per_response.chunk(2)
    return chosen + rejected

"""The loss of a batch of pairs, from the hidden states of both policies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import BaseStates, LMHead, base_kl, preference_objective, token_values
from ..errors import ConfigError
from .constants import QConstants
from .response_states import ResponseStates


class PreferenceOutput(NamedTuple):
    """The loss of a batch of pairs and its terms. All but `loss` are [pairs]; only the losses carry gradients."""

    loss: Tensor
    """Mean of `pair_loss` over the pairs of this batch."""
    pair_loss: Tensor
    """preference_loss + chi2_coef · chi2 + sft_coef · α̃ · chosen_nll (per token where length_normalized), nats; of an
    anchor anchor_coef · anchor_kl. Carries gradients."""
    preference_loss: Tensor
    """−log σ(margin), nats; without meaning for an anchor."""
    chi2: Tensor
    """Mean squared reward over the pair's tokens."""
    chosen_nll: Tensor
    """−log π̃(chosen response | prompt), nats."""
    anchor_kl: Tensor
    """KL(π₀ ‖ π̃) of an anchor, mean over its tokens, nats; 0 for a preference."""
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
    anchor: Tensor
    """bool: the base's own answers instead of a preference."""

    def of_pairs(self, which: Tensor) -> PreferenceOutput:
        """The terms of some pairs, [pairs] bool; `loss` stays that of all."""
        return PreferenceOutput(self.loss, *(field[which] for field in self[1:]))


def pair_loss(
    adapter_hidden: Tensor,
    base: BaseStates,
    head: LMHead,
    constants: QConstants,
    states: ResponseStates,
    anchor: Tensor | None = None,
) -> PreferenceOutput:
    """The objective and its terms.

    Args:
        adapter_hidden: h₁, [states, hidden].
        base: of the same states; with h₀ where there are anchors.
        head: the frozen LM head.
        constants: of the objective.
        states: the responses' states and the tokens taken in them; chosen responses first.
        anchor: [pairs] bool, True where the pair is an anchor; None for no anchors.

    Raises:
        ConfigError: anchors, without h₀ in `base`.
    """
    lengths, at = states.lengths, (states.row, states.t)
    values = token_values(
        adapter_hidden,
        base,
        head,
        states.action,
        residual_q=constants.residual_q,
        alpha_0=constants.alpha_0,
        alpha_tilde=constants.alpha_tilde,
    )
    step = torch.arange(int(lengths.max()) + 1, device=lengths.device)[None, :]
    is_action = step[:, :-1] < lengths[:, None]
    grids = [
        torch.zeros(len(lengths), step.shape[1], dtype=v.dtype, device=v.device).index_put(at, v) for v in values[:4]
    ]
    v_t = grids[1]
    q_t, policy_logp_t, base_logp_t = (grids[i][:, :-1] * is_action for i in (0, 2, 3))
    terms = preference_objective(
        q_t,
        v_t,
        policy_logp_t,
        lengths,
        states.terminated,
        gamma=constants.gamma,
        chi2_coef=constants.chi2_coef,
        sft_coef=constants.sft_coef * constants.alpha_tilde,
        value_state=constants.value_state,
        length_normalized=constants.length_normalized,
    )
    anchor = torch.zeros_like(terms.loss, dtype=torch.bool) if anchor is None else anchor
    lse = values.mixed_logsumexp_t
    anchor_kl = _anchor_kl(adapter_hidden, base, lse, head, constants, states, anchor)
    loss = torch.where(anchor, constants.anchor_coef * anchor_kl, terms.loss)
    logp_chosen, logp_rejected = policy_logp_t.detach().sum(dim=1).chunk(2)
    base_logp_chosen, base_logp_rejected = base_logp_t.detach().sum(dim=1).chunk(2)
    pair_tokens = _both_sides(lengths)
    q_sum, v_sum = q_t.detach().sum(dim=1), (v_t[:, :-1] * is_action).detach().sum(dim=1)
    return PreferenceOutput(
        loss=loss.mean(),
        pair_loss=loss,
        preference_loss=terms.preference_loss.detach(),
        chi2=terms.chi2.detach(),
        chosen_nll=terms.chosen_nll.detach(),
        anchor_kl=anchor_kl.detach(),
        return_chosen=terms.return_chosen.detach(),
        return_rejected=terms.return_rejected.detach(),
        logp_chosen=logp_chosen,
        logp_rejected=logp_rejected,
        base_logp_chosen=base_logp_chosen,
        base_logp_rejected=base_logp_rejected,
        q_mean=_both_sides(q_sum) / pair_tokens,
        v_mean=_both_sides(v_sum) / pair_tokens,
        anchor=anchor,
    )


def _anchor_kl(
    adapter_hidden: Tensor,
    base: BaseStates,
    mixed_logsumexp: Tensor,
    head: LMHead,
    constants: QConstants,
    states: ResponseStates,
    anchor: Tensor,
) -> Tensor:
    """[pairs] mean over the tokens of both answers of an anchor; 0 for a preference."""
    pairs = len(anchor)
    # The state that a cut answer was left in has no token.
    at = anchor[states.row % pairs] & (states.t < states.lengths[states.row])
    if not bool(at.any()):
        return adapter_hidden.new_zeros(pairs, dtype=base.logsumexp.dtype)
    if base.hidden is None:
        raise ConfigError(
            "the batch holds anchors, but its base_states no hidden states.",
            hint="call base_states_of_pairs with the batch's `anchor`",
        )
    hidden, lse = (adapter_hidden[at], base.hidden[at]), (mixed_logsumexp[at], base.logsumexp[at])
    kl_t = base_kl(*hidden, *lse, head, constants.mixture())
    return kl_t.new_zeros(pairs).index_add(0, states.row[at] % pairs, kl_t) / _both_sides(states.lengths)


def _both_sides(per_response: Tensor) -> Tensor:
    """[2·pairs] → [pairs]: chosen plus rejected."""
    chosen, rejected = per_response.chunk(2)
    return chosen + rejected

"""The negative log-likelihood of the chosen response: what SFT minimizes, of the customized policy."""

from __future__ import annotations

from torch import Tensor


def chosen_nll(policy_logp_chosen_t: Tensor, mask_chosen: Tensor) -> Tensor:
    """−Σ_t log π̃(a_t|s_t) over the tokens of the chosen response, one value per pair.

    A margin can grow while both responses become unlikely, and no pair vouches for what becomes likely instead. Added
    to a preference loss, this term chooses the policy against the worst of the rewards that explain the pairs.

    Args:
        policy_logp_chosen_t: [pairs, tokens] log π̃ of the chosen responses' tokens, nats.
        mask_chosen: [pairs, tokens] bool, True at the response's tokens.

    Returns:
        [pairs] nats.

    Source: not in the paper. Liu et al., Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an
    Adversarial Regularizer (arXiv 2405.16436), Algorithm 2 (RPO).
    """
    return -policy_logp_chosen_t.masked_fill(~mask_chosen, 0.0).sum(dim=1)

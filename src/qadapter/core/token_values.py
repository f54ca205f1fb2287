"""Q̂, Ṽ, log π̃ and log π₀ at the taken tokens, without keeping a [tokens, vocabulary] tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base_states import BaseStates
from .chunked_logsumexp import CHUNK_ELEMENTS, chunked_logsumexp
from .lm_head import LMHead
from .mixture import Mixture, policy_mixture
from .residual_q import ResidualQ


class TokenValues(NamedTuple):
    """What the objective needs of each state and its taken token; every field is [tokens], float32 or wider."""

    q_t: Tensor
    """Q̂(s_t, a_t), reward units. Carries gradients."""
    v_t: Tensor
    """Ṽ(s_t), reward units. Carries gradients."""
    policy_logp_t: Tensor
    """log π̃(a_t|s_t), nats. Carries gradients."""
    base_logp_t: Tensor
    """log π₀(a_t|s_t), nats."""
    mixed_logsumexp_t: Tensor
    """logsumexp(a·z₁ + b·z₀), of the state alone. Carries gradients."""


def token_values(
    adapter_hidden: Tensor,
    base: BaseStates,
    head: LMHead,
    actions: Tensor,
    *,
    residual_q: ResidualQ,
    alpha_0: float,
    alpha_tilde: float,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenValues:
    """Values at the taken tokens from the adapter's hidden states and what is known of the base in the same states.

    With (a, b) the policy's mixture, everything follows from four numbers a token, z₁(a_t), z₀(a_t),
    logsumexp(a·z₁ + b·z₀) and logsumexp(z₀):

        Q̂ = q₁·z₁ + q₀·z₀                    log π̃ = a·z₁ + b·z₀ − lse(a·z₁ + b·z₀)
        Ṽ = α̃·lse(a·z₁ + b·z₀) − α₀·lse(z₀)    log π₀ = z₀ − lse(z₀)

    Args:
        adapter_hidden: h₁, [tokens, hidden], the states in which the tokens were taken; gradients flow to it.
        base: of the same states and tokens; a constant, no gradients flow to it.
        head: the frozen LM head; no gradients flow to it.
        actions: [tokens] int64, the taken tokens.
        residual_q: the weights that define Q̂.
        alpha_0: α₀ ≥ 0.
        alpha_tilde: α̃ > 0.
        chunk_elements: largest number of logits held at a time; results do not depend on it beyond rounding.

    Returns:
        The values, each [tokens].

    Raises:
        ValueError: the mixture has a weight on z₀, but `base` carries no hidden states.
    """
    mixture = policy_mixture(residual_q, alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    if mixture.base != 0 and base.hidden is None:
        raise ValueError(f"the mixture has weight {mixture.base} on the base's logits: its hidden states are needed")
    z1, lse_mixed = _AdapterLogits.apply(adapter_hidden, base, head, actions, mixture, chunk_elements)
    z0, lse_base = base.action_logits, base.logsumexp
    return TokenValues(
        q_t=residual_q(z1, z0),
        v_t=alpha_tilde * lse_mixed - alpha_0 * lse_base,
        policy_logp_t=mixture.adapter * z1 + mixture.base * z0 - lse_mixed,
        base_logp_t=z0 - lse_base,
        mixed_logsumexp_t=lse_mixed,
    )


class _AdapterLogits(torch.autograd.Function):
    """z₁ at the actions and logsumexp of the mixed logits.

    Per token, ∂lse/∂h₁ does not depend on what comes in from above but for a factor: it is taken in the forward pass,
    and the backward pass needs no product with the head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        adapter_hidden: Tensor,
        base: BaseStates,
        head: LMHead,
        actions: Tensor,
        mixture: Mixture,
        chunk_elements: int,
    ) -> tuple[Tensor, Tensor]:
        lse_mixed, grad_lse = chunked_logsumexp(
            adapter_hidden,
            head,
            mixture,
            base.hidden,
            gradient=adapter_hidden.requires_grad,
            chunk_elements=chunk_elements,
        )
        z1 = head.logits_at(adapter_hidden, actions)
        if grad_lse is not None:
            ctx.save_for_backward(grad_lse, actions, z1)
            ctx.head = head
        return z1, lse_mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z1: Tensor, grad_lse_mixed: Tensor) -> tuple:
        grad_lse, actions, z1 = ctx.saved_tensors
        head: LMHead = ctx.head
        if head.softcap is not None:
            grad_z1 = grad_z1 * (1 - (z1 / head.softcap).square())
        wide = grad_z1.dtype
        rows = head.weight[actions].to(wide) * (head.scale * grad_z1)[:, None]
        grad_hidden = rows + grad_lse.to(wide) * grad_lse_mixed[:, None]
        return grad_hidden.to(grad_lse.dtype), None, None, None, None, None

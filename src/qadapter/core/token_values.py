"""Q̂, Ṽ, log π̃ and log π₀ at the taken tokens, without keeping a [tokens, vocabulary] tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base_states import CHUNK_ELEMENTS, BaseStates
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
    )


class _AdapterLogits(torch.autograd.Function):
    """z₁ at the actions and logsumexp of the mixed logits; chunked over tokens.

    Per token, ∂lse/∂h₁ = a·Σ_v π̃(v)·∂z₁(v)/∂h₁ does not depend on what comes in from above but for a factor. It is
    therefore taken while the chunk's logits exist; the backward pass needs no product with the head.
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
        needs_grad = adapter_hidden.requires_grad
        wide = torch.promote_types(adapter_hidden.dtype, torch.float32)
        z1, lse_mixed = torch.empty(2, len(actions), dtype=wide, device=adapter_hidden.device)
        grad_lse = torch.empty_like(adapter_hidden) if needs_grad else None
        chunk = max(1, chunk_elements // head.weight.shape[0])
        for start in range(0, len(actions), chunk):
            at = slice(start, start + chunk)
            index = actions[at, None]
            if mixture.base == 0 or base.hidden is None:
                # The mixture is the adapter's own policy (`residual` with ρ = 1): its logits serve both.
                adapter_logits = head.logits(adapter_hidden[at]).to(wide)
                z1[at] = adapter_logits.gather(1, index)[:, 0]
                mixed_logits = mixture.adapter * adapter_logits
            elif head.softcap is None:
                mixed_logits = head.mixed_logits(adapter_hidden[at], base.hidden[at], mixture).to(wide)
                z1[at] = (mixed_logits.gather(1, index)[:, 0] - mixture.base * base.action_logits[at]) / mixture.adapter
            else:
                adapter_logits = head.logits(adapter_hidden[at]).to(wide)
                z1[at] = adapter_logits.gather(1, index)[:, 0]
                base_logits = head.logits(base.hidden[at]).to(wide)
                mixed_logits = mixture.adapter * adapter_logits + mixture.base * base_logits
            lse_mixed[at] = mixed_logits.logsumexp(dim=1)
            if grad_lse is not None:
                weight = (mixed_logits - lse_mixed[at, None]).exp_()
                if head.softcap is not None:
                    weight *= 1 - (adapter_logits / head.softcap).square()
                grad_lse[at] = (mixture.adapter * head.scale) * (weight.to(head.weight.dtype) @ head.weight)
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

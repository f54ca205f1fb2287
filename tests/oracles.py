"""Slow float64 versions of the mathematics, written from the equations with loops. Judges of `qadapter.core`."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_softmax(logits: Tensor) -> Tensor:
    """log π(a|s) = z_a − log Σ_b exp z_b."""
    return logits - torch.log(torch.exp(logits).sum(-1, keepdim=True))


def q_function(parametrization: str, adapter_logits: Tensor, base_logits: Tensor, alpha_tilde: float) -> Tensor:
    """Q̂ = z₁ (`logits`) or α̃·(z₁ − z₀) (`residual`)."""
    return adapter_logits if parametrization == "logits" else alpha_tilde * (adapter_logits - base_logits)


def soft_value(q: Tensor, base_logits: Tensor, alpha_0: float, alpha_tilde: float) -> Tensor:
    """Ṽ(s) = α̃·log Σ_a exp[(Q̂ + α₀·log π₀)/α̃], state by state."""
    return alpha_tilde * torch.log(torch.exp((q + alpha_0 * log_softmax(base_logits)) / alpha_tilde).sum(-1))


def policy_logp(q: Tensor, base_logits: Tensor, alpha_0: float, alpha_tilde: float) -> Tensor:
    """log π̃ = (Q̂ + α₀·log π₀ − Ṽ)/α̃."""
    value = soft_value(q, base_logits, alpha_0, alpha_tilde)
    return (q + alpha_0 * log_softmax(base_logits) - value.unsqueeze(-1)) / alpha_tilde


def rewards(
    q: Tensor,
    base_logits: Tensor,
    tokens: list[int],
    terminated: bool,
    alpha_0: float,
    alpha_tilde: float,
    gamma: float,
) -> list[Tensor]:
    """r_t = Q̂(s_t, a_t) − γ·Ṽ(s_{t+1}) along one response.

    `q` and `base_logits` are [tokens + 1, vocabulary]: the states before each token and the one after the last.
    """
    values = soft_value(q, base_logits, alpha_0, alpha_tilde)
    out = []
    for t, action in enumerate(tokens):
        after = values[t + 1]
        if terminated and t == len(tokens) - 1:
            after = torch.zeros_like(after)
        out.append(q[t, action] - gamma * after)
    return out


def pair_loss(chosen: list[Tensor], rejected: list[Tensor], gamma: float, chi2_coef: float) -> Tensor:
    """−log σ(Σ γ^t r_t^w − Σ γ^t r_t^l) + β·mean of r² over the tokens of both responses."""
    margin = sum(gamma**t * r for t, r in enumerate(chosen)) - sum(gamma**t * r for t, r in enumerate(rejected))
    every = [*chosen, *rejected]
    return torch.log(1 + torch.exp(-margin)) + chi2_coef * sum(r * r for r in every) / len(every)


def dpo_loss(
    policy_chosen: float, policy_rejected: float, base_chosen: float, base_rejected: float, beta: float
) -> float:
    """The DPO loss of one pair from four summed log-probabilities."""
    margin = beta * ((policy_chosen - base_chosen) - (policy_rejected - base_rejected))
    return math.log1p(math.exp(-margin))

"""KL(π₀‖π̃) of single states, over the whole vocabulary, without a [tokens, vocabulary] tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .chunked_logsumexp import CHUNK_ELEMENTS, mixed_scores
from .lm_head import LMHead
from .mixture import Mixture

# Tokens of one chunk: enough that the products with the head run at the machine's speed.
_TOKENS = 512


def base_kl(
    adapter_hidden: Tensor,
    base_hidden: Tensor,
    mixed_logsumexp: Tensor,
    base_logsumexp: Tensor,
    head: LMHead,
    mixture: Mixture,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """KL(π₀(·|s) ‖ π̃(·|s)) of every state, with π̃ = softmax(a·z₁ + b·z₀).

    Exact: the sum is over the vocabulary, not over sampled tokens, so one state says where each token's probability
    has to go.

    Args:
        adapter_hidden: h₁, [tokens, hidden]; gradients flow to it.
        base_hidden: h₀, [tokens, hidden]; a constant.
        mixed_logsumexp: logsumexp(a·z₁ + b·z₀), [tokens], as `token_values` has it: with it every term of the sum is
            as small as the difference of the policies. The gradient that it carries is in the result's own.
        base_logsumexp: logsumexp(z₀), [tokens].
        head: the frozen LM head; no gradients flow to it.
        mixture: (a, b), numbers.
        chunk_elements: largest number of logits held at a time; results do not depend on it beyond rounding.

    Returns:
        [tokens] nats, float32 or wider.
    """
    lse = mixed_logsumexp.detach(), base_logsumexp
    return _BaseKL.apply(adapter_hidden, base_hidden, *lse, head, mixture, chunk_elements)


class _BaseKL(torch.autograd.Function):
    """∂KL/∂h₁ = Σ_v (π̃(v) − π₀(v))·∂(a·z₁(v))/∂h₁, taken in the forward pass while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any,
        adapter_hidden: Tensor,
        base_hidden: Tensor,
        lse_mixed: Tensor,
        lse_base: Tensor,
        head: LMHead,
        mixture: Mixture,
        chunk_elements: int,
    ) -> Tensor:
        kl, slopes = torch.zeros_like(lse_base), torch.zeros_like(adapter_hidden, dtype=lse_base.dtype)
        tokens = min(_TOKENS, chunk_elements)
        for start in range(0, len(kl), tokens):
            at = slice(start, start + tokens)
            h1, h0 = adapter_hidden[at], base_hidden[at]
            for part in head.parts(max(1, chunk_elements // len(h1))):
                scores, cap_slope = mixed_scores(part, h1, h0 if mixture.base != 0 else None, mixture)
                policy_logp = scores.sub_(lse_mixed[at, None])
                base_logp = part.logits(h0).to(scores.dtype).sub_(lse_base[at, None])
                base_p = base_logp.exp()
                kl[at] += (base_p * (base_logp - policy_logp)).sum(dim=1)
                if adapter_hidden.requires_grad:
                    slope = policy_logp.exp_().sub_(base_p)
                    slope = slope if cap_slope is None else slope * cap_slope
                    slopes[at] += slope.to(part.weight.dtype) @ part.weight
        ctx.save_for_backward(slopes.mul_(mixture.adapter * head.scale).to(adapter_hidden.dtype))
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: Tensor) -> tuple:
        (slopes,) = ctx.saved_tensors
        return (slopes.to(grad_kl.dtype) * grad_kl[:, None]).to(slopes.dtype), None, None, None, None, None, None

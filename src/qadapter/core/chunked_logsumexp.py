"""logsumexp over the vocabulary, and its gradient, without a [tokens, vocabulary] tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from .lm_head import LMHead
from .mixture import Mixture

# Logits of one chunk in float32: 2^21 elements are 8 MiB, whatever the vocabulary.
CHUNK_ELEMENTS = 2**21
# Tokens of one chunk: enough that the products with the head run at the machine's speed.
_TOKENS = 512
_ITSELF = Mixture(1.0, 0.0)


def chunked_logsumexp(
    hidden: Tensor,
    head: LMHead,
    mixture: Mixture = _ITSELF,
    base_hidden: Tensor | None = None,
    *,
    gradient: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor | None]:
    """log Σ_v exp(a·z₁(v) + b·z₀(v)) of every token; chunked over tokens and vocabulary.

    Chunks of the vocabulary are folded into a running maximum and sum, and so is Σ_v softmax(v)·∂z₁(v)/∂h₁, the
    gradient: it is taken while a chunk's logits exist, so that neither they nor another product are needed later.

    Args:
        hidden: h₁, [tokens, hidden].
        head: the frozen LM head.
        mixture: (a, b), numbers.
        base_hidden: h₀, [tokens, hidden]; needed where b ≠ 0.
        gradient: whether to compute the gradient.
        chunk_elements: largest number of logits held at a time; results do not depend on it beyond rounding.

    Returns:
        The logsumexp, [tokens] in float32 or wider; and its gradient with respect to `hidden`, [tokens, hidden] in the
        dtype of `hidden`, or None.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logsumexp = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    slopes = torch.empty_like(hidden) if gradient else None
    count = max(1, -(-len(hidden) // min(_TOKENS, chunk_elements)))
    tokens = max(1, -(-len(hidden) // count))
    for start in range(0, len(hidden), tokens):
        at = slice(start, start + tokens)
        h1, h0 = hidden[at], None if base_hidden is None or mixture.base == 0 else base_hidden[at]
        top = torch.full((len(h1),), -torch.inf, dtype=wide, device=hidden.device)
        total, slope = torch.zeros_like(top), torch.zeros_like(h1, dtype=wide) if gradient else None
        for part in head.parts(max(1, chunk_elements // len(h1))):
            scores, cap_slope = mixed_scores(part, h1, h0, mixture)
            highest = torch.maximum(top, scores.amax(dim=1))
            weight, shrink = scores.sub_(highest[:, None]).exp_(), (top - highest).exp_()
            top, total = highest, total * shrink + weight.sum(dim=1)
            if slope is not None:
                weight = weight if cap_slope is None else weight * cap_slope
                slope.mul_(shrink[:, None]).add_(weight.to(part.weight.dtype) @ part.weight)
        logsumexp[at] = top + total.log()
        if slopes is not None and slope is not None:
            slopes[at] = slope.mul_((mixture.adapter * head.scale / total)[:, None])
    return logsumexp, slopes


def mixed_scores(part: LMHead, h1: Tensor, h0: Tensor | None, mixture: Mixture) -> tuple[Tensor, Tensor | None]:
    """a·z₁ + b·z₀, float32 or wider and free to overwrite; and ∂z₁/∂(uncapped z₁) of a capped head."""
    wide = torch.promote_types(h1.dtype, torch.float32)
    if part.softcap is None and h0 is not None:
        return part.mixed_logits(h1, h0, mixture).to(wide), None
    adapter_logits = part.logits(h1).to(wide)
    cap_slope = None if part.softcap is None else 1 - (adapter_logits / part.softcap).square()
    scores = adapter_logits if mixture.adapter == 1 else adapter_logits.mul_(mixture.adapter)
    if h0 is not None:
        scores += mixture.base * part.logits(h0).to(wide)
    return scores, cap_slope

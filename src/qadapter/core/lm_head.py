"""From hidden states to logits, and the policies' mixture taken on hidden states."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .mixture import Mixture, Scalar

# Entries of the vocabulary whose weights are converted at a time.
_CONVERTED_AT_ONCE = 8192


class LMHead(NamedTuple):
    """The frozen, un-adapted map from final hidden states to logits: z = cap(scale · (W·h + bias)).

    Both policies share it; that is what makes mixing on hidden states possible.
    """

    weight: Tensor
    """W, [vocabulary, hidden]."""
    bias: Tensor | None = None
    """[vocabulary] or None."""
    scale: float = 1.0
    """Factor on the logits (Cohere, Granite)."""
    softcap: float | None = None
    """c in z = c·tanh(z/c) (Gemma 2), or None. A capped head is not linear: it takes the dense path."""

    def logits(self, hidden: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Logits of one policy.

        Args:
            hidden: [..., hidden] final hidden states.
            dtype: of the product; default that of W.

        Returns:
            [..., vocabulary] in the dtype of the product; float32 where a cap, a scale or a bias is applied.
        """
        return self._finish(self._product(hidden, dtype), bias_weight=1.0)

    def mixed_logits(
        self, adapter_hidden: Tensor, base_hidden: Tensor, mixture: Mixture, dtype: torch.dtype | None = None
    ) -> Tensor:
        """a·z₁ + b·z₀: the customized policy's logits up to a constant of the state.

        A linear head needs one product, of a·h₁ + b·h₀; a capped one needs two.

        Args:
            adapter_hidden: h₁, [rows, tokens, hidden] (or [tokens, hidden] with a scalar mixture).
            base_hidden: h₀, the same shape.
            mixture: the weights, numbers or tensors [rows].
            dtype: of the product; default that of W.

        Returns:
            [..., vocabulary] logits.

        Source: exact for a linear head, since a·(W·h₁) + b·(W·h₀) = W·(a·h₁ + b·h₀); a bias enters a + b times.
        """
        if self.softcap is not None:
            adapter_logits, base_logits = self.logits(adapter_hidden, dtype), self.logits(base_hidden, dtype)
            return _per_row(mixture.adapter, adapter_logits) * adapter_logits + (
                _per_row(mixture.base, base_logits) * base_logits
            )
        hidden = mix_hidden_states(adapter_hidden, base_hidden, mixture)
        bias_weight = _per_row(mixture.adapter + mixture.base, hidden)
        return self._finish(self._product(hidden, dtype), bias_weight)

    def logits_at(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """The logit of one token per state.

        Args:
            hidden: [states, hidden] final hidden states.
            tokens: [states] int64.

        Returns:
            [states], float32 or wider; unlike `logits`, not rounded to the dtype of the product.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        product = (hidden.to(wide) * self.weight[tokens].to(wide)).sum(dim=-1)
        return LMHead(self.weight, None if self.bias is None else self.bias[tokens], self.scale, self.softcap)._finish(
            product, bias_weight=1.0
        )

    def parts(self, size: int) -> list[LMHead]:
        """The head as heads of at most `size` entries of the vocabulary each, of nearly equal sizes."""
        entries = len(self.weight)
        size = -(-entries // -(-entries // size))
        weights = self.weight.split(size)
        biases = [None] * len(weights) if self.bias is None else self.bias.split(size)
        return [LMHead(w, b, self.scale, self.softcap) for w, b in zip(weights, biases, strict=True)]

    def _product(self, hidden: Tensor, dtype: torch.dtype | None) -> Tensor:
        # A slice of positions is strided, and for strided batches torch multiplies with one copy of W per row.
        hidden = hidden.contiguous().to(dtype or self.weight.dtype)
        if hidden.dtype == self.weight.dtype:
            return F.linear(hidden, self.weight)
        # A whole copy of W in another dtype is gigabytes for a large vocabulary.
        return torch.cat(
            [F.linear(hidden, part.to(hidden.dtype)) for part in self.weight.split(_CONVERTED_AT_ONCE)], -1
        )

    def _finish(self, product: Tensor, bias_weight: Scalar) -> Tensor:
        if self.bias is None and self.scale == 1.0 and self.softcap is None:
            return product
        logits = product.float() if product.dtype in (torch.bfloat16, torch.float16) else product
        if self.bias is not None:
            logits = logits + bias_weight * self.bias.to(logits.dtype)
        logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def mix_hidden_states(adapter_hidden: Tensor, base_hidden: Tensor, mixture: Mixture) -> Tensor:
    """a·h₁ + b·h₀, summed in at least float32 so that a + b = 1 loses no bits of the states' difference.

    Args:
        adapter_hidden: h₁, [rows, tokens, hidden] (or [tokens, hidden] with a scalar mixture).
        base_hidden: h₀, the same shape.
        mixture: the weights, numbers or tensors [rows].

    Returns:
        The same shape, float32 or wider.
    """
    wide = torch.promote_types(adapter_hidden.dtype, torch.float32)
    adapter_hidden, base_hidden = adapter_hidden.to(wide), base_hidden.to(wide)
    return _per_row(mixture.adapter, adapter_hidden) * adapter_hidden + (
        _per_row(mixture.base, base_hidden) * base_hidden
    )


def _per_row(weight: Scalar, like: Tensor) -> Scalar:
    """A tensor [rows] as [rows, 1, ..., 1], so that it broadcasts over the other axes of `like`."""
    if not isinstance(weight, Tensor):
        return weight
    return weight.to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))

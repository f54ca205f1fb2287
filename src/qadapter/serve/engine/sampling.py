"""Choosing the next token of each row, from the row's own policy and with the row's own randomness."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from .request import Sampling, TokenLogprob

# Below this the likeliest token has all the probability that float64 can tell from the rest.
_GREEDY = 1e-4
# Most nuclei are smaller than this; ordering the whole vocabulary for each token would take longer than a step.
_FIRST_LOOK = 256


class Sampler:
    """How the tokens of one answer are drawn. The draws depend on the seed and the answer's number, not on the batch.

    Args:
        sampling: temperature, top_p and seed.
        choice: number of the answer among those to the same prompt.
    """

    def __init__(self, sampling: Sampling, choice: int) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature < _GREEDY
        self.random = random.Random() if sampling.seed is None else random.Random(f"{sampling.seed}/{choice}")


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row. A row's token does not depend on the other rows.

    Args:
        logits: [rows, vocabulary], float32.
        samplers: one per row.
    """
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    tokens = [0] * len(samplers) if len(drawn) == len(samplers) else logits.argmax(dim=-1).tolist()
    if drawn:
        # The rows together: one after the other, eight of them took a fortieth of a step.
        for row, token in zip(drawn, _draw(logits[drawn], [samplers[row] for row in drawn]), strict=True):
            tokens[row] = token
    return tokens


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Tokens by inversion of the distribution function: one random number per token."""
    temperatures = logits.new_tensor([sampler.sampling.temperature for sampler in samplers], dtype=torch.float64)
    probabilities = (logits.double() / temperatures[:, None]).softmax(dim=-1)
    numbers = [sampler.random.random() for sampler in samplers]
    tokens = _invert(probabilities, probabilities.new_tensor(numbers))
    for row, (sampler, number) in enumerate(zip(samplers, numbers, strict=True)):
        if sampler.sampling.top_p < 1.0:
            likeliest, of_rank = nucleus(probabilities[row], sampler.sampling.top_p)
            (rank,) = _invert(likeliest[None], probabilities.new_tensor([number]))
            tokens[row] = int(of_rank[rank])
    return tokens


def _invert(probabilities: Tensor, numbers: Tensor) -> list[int]:
    """The entry of each row at which the row's sum, [rows, entries], passes the share `numbers` [rows] of the whole."""
    cumulative = probabilities.cumsum(dim=-1)
    at = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)
    # The last entry, where rounding lets the share be the whole.
    return at.flatten().clamp_(max=cumulative.shape[-1] - 1).tolist()


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest likeliest tokens that together have at least the share `top_p`; at least one.

    Args:
        probabilities: [vocabulary].
        top_p: in [0, 1].

    Returns:
        Their probabilities in descending order, not normalised, and the tokens.
    """
    for size in (min(_FIRST_LOOK, len(probabilities)), len(probabilities)):
        likeliest, tokens = probabilities.topk(size)
        mass = likeliest.cumsum(dim=-1)
        if mass[-1] >= top_p:
            break
    kept = int((mass < top_p).sum()) + 1
    return likeliest[:kept], tokens[:kept]


def token_logprob(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """What the policy thought of a token.

    Args:
        logits: [vocabulary], of the policy itself.
        token: the chosen one.
        top: number of likeliest tokens to report.
    """
    logp = logits.log_softmax(dim=-1)
    values, tokens = logp.topk(min(top, len(logp)))
    return TokenLogprob(token, float(logp[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))

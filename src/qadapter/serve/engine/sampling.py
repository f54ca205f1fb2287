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
    """Draws the tokens of one answer. The draws depend on the seed and the answer's number, not on the batch.

    Args:
        sampling: temperature, top_p and seed.
        choice: number of the answer among those to the same prompt.
    """

    def __init__(self, sampling: Sampling, choice: int) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature < _GREEDY
        self.random = random.Random() if sampling.seed is None else random.Random(f"{sampling.seed}/{choice}")

    def draw(self, logits: Tensor) -> int:
        """A token by inversion of the distribution function: one random number per token.

        Args:
            logits: [vocabulary], float32.
        """
        probabilities = (logits.double() / self.sampling.temperature).softmax(dim=-1)
        tokens = None
        if self.sampling.top_p < 1.0:
            probabilities, tokens = nucleus(probabilities, self.sampling.top_p)
        cumulative = probabilities.cumsum(dim=-1)
        at = int(torch.searchsorted(cumulative, self.random.random() * cumulative[-1], right=True))
        at = min(at, len(cumulative) - 1)  # where rounding lets the last step reach the sum
        return at if tokens is None else int(tokens[at])


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary], float32.
        samplers: one per row.
    """
    greedy = logits.argmax(dim=-1).tolist()
    return [greedy[row] if sampler.greedy else sampler.draw(logits[row]) for row, sampler in enumerate(samplers)]


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

"""How far policies are from a reference policy in the states of given answers, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .policy import Policy
from .token_scores import left_padded

# Whole rows of logits are compared: eight sequences keep that to a few hundred megabytes.
_COMPARED_AT_ONCE = 8


class Distance(NamedTuple):
    """From the reference to another policy, on the answer to one prompt."""

    kl: float
    """Mean over the answer's tokens of KL(reference ‖ other), nats."""
    top1_agreement: float
    """Share of the answer's tokens at which both policies have the same most likely token."""
    tokens: int


@torch.inference_mode()
def policy_distances(
    reference: Policy,
    others: Sequence[Policy],
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    *,
    device: torch.device,
) -> list[list[Distance]]:
    """Compare policies at every token of the answers.

    Args:
        reference: the policy that the others are compared with.
        others: these.
        prompts: token ids.
        answers: token ids, one answer per prompt, at least one token.
        device: of the policies.

    Returns:
        Per other policy, one distance per prompt in their order.
    """
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    found: list[dict[int, Distance]] = [{} for _ in others]
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    for start in range(0, len(order), _COMPARED_AT_ONCE):
        batch = order[start : start + _COMPARED_AT_ONCE]
        inputs = left_padded([sequences[index] for index in batch], device)
        keep = max(len(answers[index]) for index in batch) + 1
        expected = _logp(reference, inputs, keep)
        for distances, other in zip(found, others, strict=True):
            got = _logp(other, inputs, keep)
            kl = (expected.exp() * (expected - got)).sum(-1).cpu().double()
            agree = (expected.argmax(-1) == got.argmax(-1)).cpu().double()
            for row, index in enumerate(batch):
                tokens = len(answers[index])
                distances[index] = Distance(kl[row, -tokens:].mean().item(), agree[row, -tokens:].mean().item(), tokens)
    return [[distances[index] for index in range(len(sequences))] for distances in found]


def _logp(policy: Policy, inputs: dict[str, Tensor], keep: int) -> Tensor:
    """[rows, keep − 1, vocabulary]: the last state comes after the answers."""
    logits = policy(**inputs, logits_to_keep=keep, use_cache=False).logits
    return logits[:, :-1].float().log_softmax(-1)

"""Where one set of weights is the policy, where it comes near, and how near.

With Q̂ = α̃·(z₁ − z₀) and ρ = α₀/α̃ = 1 the policy at strength η is softmax(η·z₁ + (1 − η)·z₀). At η = 1 that is the
LoRA's own softmax(z₁). At another strength the LoRA scaled by η, W + η·B·A, agrees with it to first order in B·A only,
and by how much it differs is measured. Any other policy is no LoRA of this training at all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data import encode_prompt
from ..errors import ConfigError
from ..evaluate.policy import Policy, policy_at
from ..evaluate.policy_distance import policy_distances
from ..evaluate.retention import as_input
from ..generate import answer_prompts
from ..model import QAdapterForCausalLM, QConstants

logger = logging.getLogger(__name__)

_ANSWER_TOKENS, _ANSWERED_AT_ONCE = 32, 20
BOTH_POLICIES = "`qadapter serve`, or vLLM with --to vllm, decodes with both policies"


class ExportDistance(NamedTuple):
    """KL(exact ‖ exported) in the states of the exact policy's greedy answers."""

    kl: float
    """Mean over tokens, nats."""
    top1_agreement: float
    """Share of tokens at which both policies have the same most likely token."""
    tokens: int
    prompts: int

    def __str__(self) -> str:
        return (
            f"KL(exact || exported) = {self.kl:.3g} nats per token, the same most likely token on "
            f"{self.top1_agreement:.1%} of {self.tokens} tokens (answers to {self.prompts} prompts)"
        )


def check_single_policy(constants: QConstants, target: str) -> None:
    """Refuse constants for which no LoRA of this training is the policy.

    Raises:
        ConfigError: parametrization logits, or α₀ ≠ α̃.
    """
    mixture = constants.mixture(1.0)
    if tuple(mixture) == (1.0, 0.0):
        return
    trained = (
        f"parametrization {constants.parametrization}, alpha_0 {constants.alpha_0:g}, "
        f"alpha_tilde {constants.alpha_tilde:g}"
    )
    raise ConfigError(
        f"--to {target} would be another policy: this adapter's ({trained}) is softmax({mixture.adapter:g}·z₁ + "
        f"{mixture.base:g}·z₀), a mixture of the adapter's and the base's logits that no single set of weights gives.",
        hint=f"--to distilled trains one LoRA to match it; {BOTH_POLICIES}",
    )


class Probe(NamedTuple):
    """Prompts and the exact policy's greedy answers, as token ids: the states in which policies are compared."""

    prompts: list[list[int]]
    answers: list[list[int]]


def probe(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    strength: float,
    prompts: Sequence[dict[str, str]],
) -> Probe:
    """Let the exact policy answer.

    Args:
        model: put in eval mode.
        tokenizer: its tokenizer.
        strength: η of the exact policy.
        prompts: {kind, prompt}, from `read_neutral_prompts`.
    """
    logger.info("measuring KL(exact || exported) on answers to %d prompts", len(prompts))
    texts = [as_input(row, tokenizer) for row in prompts]
    answers = answer_prompts(
        model, tokenizer, texts, max_new_tokens=_ANSWER_TOKENS, batch_size=_ANSWERED_AT_ONCE,
        **policy_at(model, strength),
    )  # fmt: skip
    return Probe([encode_prompt(text, tokenizer) for text in texts], [answer.token_ids for answer in answers])


def measured_distance(states: Probe, exact: Policy, exported: Policy, device: torch.device) -> ExportDistance:
    """KL(exact ‖ exported) in the states of a probe; both policies are on the device."""
    (items,) = policy_distances(exact, [exported], states.prompts, states.answers, device=device)
    tokens = sum(item.tokens for item in items)
    return ExportDistance(
        kl=sum(item.kl * item.tokens for item in items) / tokens,
        top1_agreement=sum(item.top1_agreement * item.tokens for item in items) / tokens,
        tokens=tokens,
        prompts=len(items),
    )


def report(strength: float, distance: ExportDistance | None, departures: Sequence[str]) -> None:
    """Say how far the export will be from the exact policy, before it is written."""
    what = "the exact policy" if distance is None else f"an approximation: {distance}"
    but = "; ".join(departures)
    logger.info("strength %g: the export is %s", strength, f"{what}, but that {but}" if but else what)

"""How far the customized policy is from the base on prompts that the preference is not about."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data import encode_prompt
from ..generate import answer_prompts, chat_input
from ..model import QAdapterForCausalLM
from .policy import forward_at, policy_at
from .policy_distance import policy_distances

ANSWER_TOKENS = 32
"""Most tokens of a base's answer to a neutral prompt."""


class PromptDistance(NamedTuple):
    """How far the policies are from each other on the base's answer to one prompt."""

    kind: str
    kl: float
    """Mean over the answer's tokens of KL(π₀ ‖ π̃), nats."""
    top1_agreement: float
    """Share of the answer's tokens at which both policies have the same most likely token."""
    tokens: int


@dataclass(frozen=True)
class RetentionResult:
    """Distance to the base, per token of the base's own answers, each up to `max_new_tokens`."""

    kl_to_base: float
    """Mean over tokens of KL(π₀ ‖ π̃), nats."""
    top1_agreement: float
    """Share of tokens at which both policies have the same most likely token."""
    kl_by_kind: dict[str, float]
    """The KL by kind of prompt."""
    prompts: int
    tokens: int
    items: list[PromptDistance]
    """In the order of the prompts."""


def load_neutral_prompts() -> list[dict[str, str]]:
    """The project's 60 prompts {kind, prompt}: arithmetic, code, documents to continue, rewriting, extraction."""
    text = files(__package__).joinpath("neutral_prompts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answer_as_base(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[dict[str, str]],
    *,
    max_new_tokens: int = ANSWER_TOKENS,
    batch_size: int = 20,
) -> list[list[int]]:
    """The token ids of the base's greedy answers.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer. Prompts of kind `document`, and all where it has no chat template, are continued as
            plain text; the others are put to the model as a user's message.
        prompts: {kind, prompt}.
        max_new_tokens: most tokens of an answer.
        batch_size: prompts answered at a time.
    """
    texts = [as_input(row, tokenizer) for row in prompts]
    base = policy_at(model, 0.0)
    answers = answer_prompts(model, tokenizer, texts, max_new_tokens=max_new_tokens, batch_size=batch_size, **base)
    return [answer.token_ids for answer in answers]


@torch.inference_mode()
def evaluate_retention(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[dict[str, str]] | None = None,
    *,
    strengths: Sequence[float] = (1.0,),
    max_new_tokens: int = ANSWER_TOKENS,
    batch_size: int = 20,
    base_answers: Sequence[list[int]] | None = None,
) -> list[RetentionResult]:
    """Let the base answer greedily, and compare the policies at every token of its answers.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer.
        prompts: {kind, prompt}; default the project's neutral prompts.
        strengths: η of the customized policies to compare with the base.
        max_new_tokens: most tokens of a base answer.
        batch_size: prompts answered at a time.
        base_answers: what `answer_as_base` gave for these prompts, to do without answering again.

    Returns:
        One result per strength: means over all compared tokens.
    """
    prompts = load_neutral_prompts() if prompts is None else prompts
    if base_answers is None:
        base_answers = answer_as_base(
            model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
        )  # fmt: skip
    encoded = [encode_prompt(as_input(row, tokenizer), tokenizer) for row in prompts]
    policies = [forward_at(model, strength) for strength in strengths]
    found = policy_distances(forward_at(model, 0.0), policies, encoded, base_answers, device=model.device)
    return [
        _summary([PromptDistance(row["kind"], *distance) for row, distance in zip(prompts, of_one, strict=True)])
        for of_one in found
    ]


def as_input(row: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> str | list[dict[str, str]]:
    """A {kind, prompt} as it is put to the model; see `answer_as_base`."""
    return row["prompt"] if row["kind"] == "document" else chat_input(row["prompt"], tokenizer)


def _summary(items: list[PromptDistance]) -> RetentionResult:
    by_kind: dict[str, list[PromptDistance]] = defaultdict(list)
    for item in items:
        by_kind[item.kind].append(item)
    return RetentionResult(
        kl_to_base=_token_mean(items, "kl"),
        top1_agreement=_token_mean(items, "top1_agreement"),
        kl_by_kind={kind: _token_mean(of_kind, "kl") for kind, of_kind in sorted(by_kind.items())},
        prompts=len(items),
        tokens=sum(item.tokens for item in items),
        items=items,
    )


def _token_mean(items: Sequence[PromptDistance], field: str) -> float:
    return sum(getattr(item, field) * item.tokens for item in items) / sum(item.tokens for item in items)

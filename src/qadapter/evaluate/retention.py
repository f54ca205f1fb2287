"""How far the customized policy is from the base on prompts that the preference is not about."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import torch
from transformers import PreTrainedTokenizerBase

from ..data import encode_prompt
from ..generate import answer_prompts
from ..model import QAdapterForCausalLM

# Whole rows of logits are compared: eight sequences keep that to a few hundred megabytes.
_COMPARED_AT_ONCE = 8


@dataclass(frozen=True)
class RetentionResult:
    """Distance to the base, per token of the base's own answers."""

    kl_to_base: float
    """Mean over tokens of KL(π₀ ‖ π̃), nats."""
    top1_agreement: float
    """Share of tokens at which both policies have the same most likely token."""
    kl_by_kind: dict[str, float]
    """The KL by kind of prompt."""
    prompts: int
    tokens: int


def load_neutral_prompts() -> list[dict[str, str]]:
    """The project's 60 prompts {kind, prompt}: arithmetic, code, documents to continue, rewriting, extraction."""
    text = files(__package__).joinpath("neutral_prompts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@torch.inference_mode()
def evaluate_retention(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[dict[str, str]] | None = None,
    *,
    strengths: Sequence[float] = (1.0,),
    max_new_tokens: int = 32,
    batch_size: int = 20,
) -> list[RetentionResult]:
    """Let the base answer greedily, and compare the policies at every token of its answers.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer. Prompts of kind `document`, and all where it has no chat template, are continued as
            plain text; the others are put to the model as a user's message.
        prompts: {kind, prompt}; default the project's neutral prompts.
        strengths: η of the customized policies to compare with the base.
        max_new_tokens: most tokens of a base answer.
        batch_size: prompts answered at a time.

    Returns:
        One result per strength: means over all compared tokens.
    """
    prompts = load_neutral_prompts() if prompts is None else prompts
    texts: list[str | list[dict[str, str]]] = [
        row["prompt"]
        if row["kind"] == "document" or not tokenizer.chat_template
        else [{"role": "user", "content": row["prompt"]}]
        for row in prompts
    ]
    answers = answer_prompts(
        model, tokenizer, texts, max_new_tokens=max_new_tokens, batch_size=batch_size, strength=0.0
    )
    # Per strength: (kind, KL, whether the most likely tokens agree) of every token.
    tokens: list[list[tuple[str, float, bool]]] = [[] for _ in strengths]
    sequences = [encode_prompt(text, tokenizer) + answer.token_ids for text, answer in zip(texts, answers, strict=True)]
    order = sorted(range(len(prompts)), key=lambda index: len(sequences[index]))
    for start in range(0, len(order), _COMPARED_AT_ONCE):
        batch = order[start : start + _COMPARED_AT_ONCE]
        lengths = [len(answers[index].token_ids) for index in batch]
        inputs = _left_padded([sequences[index] for index in batch], model.device)

        def logp(strength: float, inputs: dict = inputs, keep: int = max(lengths) + 1) -> torch.Tensor:
            logits = model(**inputs, logits_to_keep=keep, strength=strength, use_cache=False).logits
            return logits[:, :-1].float().log_softmax(-1)

        base = logp(0.0)
        for found, strength in zip(tokens, strengths, strict=True):
            customized = logp(strength)
            kl = (base.exp() * (base - customized)).sum(-1)
            agree = base.argmax(-1) == customized.argmax(-1)
            for row, (index, length) in enumerate(zip(batch, lengths, strict=True)):
                kind = prompts[index]["kind"]
                values = zip(kl[row, -length:].tolist(), agree[row, -length:].tolist(), strict=True)
                found += [(kind, *value) for value in values]
    return [_summary(found, len(prompts)) for found in tokens]


def _left_padded(rows: list[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Rows of unequal length that end together, so that their answers lie in the last columns."""
    width = max(map(len, rows))
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def _summary(tokens: list[tuple[str, float, bool]], prompts: int) -> RetentionResult:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, kl, _ in tokens:
        by_kind[kind].append(kl)
    return RetentionResult(
        kl_to_base=sum(kl for _, kl, _ in tokens) / len(tokens),
        top1_agreement=sum(agree for *_, agree in tokens) / len(tokens),
        kl_by_kind={kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())},
        prompts=prompts,
        tokens=len(tokens),
    )

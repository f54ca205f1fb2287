"""A small multiple-choice probe: does the model still know what it knew?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data import PreferenceCollator
from ..model import QAdapterForCausalLM


class ProbeResult(NamedTuple):
    """Per question, whether the right choice scored highest."""

    base: list[bool]
    customized: list[bool]


def load_probe() -> list[dict[str, Any]]:
    """The project's 200 easy questions {subject, question, choices (4), answer (index)}."""
    text = files(__package__).joinpath("probe.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@torch.inference_mode()
def evaluate_probe(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[dict[str, Any]] | None = None,
    *,
    batch_size: int = 16,
) -> ProbeResult:
    """Score each choice by its mean log-probability per token after "Question: … Answer:", under both policies.

    Two choices of a question go through the model as a pair, so that both policies' log-probabilities come out of
    one forward and the question is read once for both.

    Args:
        model: the model; put in eval mode. The customized policy is the one at strength 1.
        tokenizer: its tokenizer.
        questions: default the project's probe. Every question has an even number of choices.
        batch_size: pairs of choices per batch; no result depends on it.

    Returns:
        The right and wrong answers of both policies.
    """
    model.eval()
    questions = load_probe() if questions is None else questions
    choices: list[tuple[list[int], list[int]]] = []
    for question in questions:
        prompt_ids = tokenizer(f"Question: {question['question']}\nAnswer:")["input_ids"]
        for choice in question["choices"]:
            choices.append((prompt_ids, tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]))
    pairs: list[dict[str, Any]] = [
        {
            "prompt_ids": prompt_ids,
            "chosen_ids": one,
            "rejected_ids": other,
            "chosen_terminated": True,
            "rejected_terminated": True,
        }
        for (prompt_ids, one), (_, other) in zip(choices[::2], choices[1::2], strict=True)
    ]
    collate = PreferenceCollator(pad_token_id=0)
    scores = torch.empty(2, len(choices))
    order = sorted(range(len(pairs)), key=lambda index: sum(len(pairs[index][key]) for key in _PARTS))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = collate([pairs[index] for index in batch])
        output = model(**{name: value.to(model.device) for name, value in inputs.items()})
        where = torch.tensor(batch)
        for policy, (one, other) in enumerate(
            ((output.base_logp_chosen, output.base_logp_rejected), (output.logp_chosen, output.logp_rejected))
        ):
            scores[policy, 2 * where], scores[policy, 2 * where + 1] = one.cpu().float(), other.cpu().float()
    scores /= torch.tensor([len(ids) for _, ids in choices])
    right: list[list[bool]] = [[], []]
    first = 0
    for question in questions:
        last = first + len(question["choices"])
        for policy in (0, 1):
            right[policy].append(int(scores[policy, first:last].argmax()) == question["answer"])
        first = last
    return ProbeResult(base=right[0], customized=right[1])


_PARTS = ("prompt_ids", "chosen_ids", "rejected_ids")

"""A small multiple-choice probe: does the model still know what it knew?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..model import QAdapterForCausalLM


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
    strength: float = 1.0,
    batch_size: int = 32,
) -> list[bool]:
    """Answer by the mean log-probability per token of each choice after "Question: … Answer:".

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer.
        questions: default the project's probe.
        strength: η of the policy that answers; 0 is the base.
        batch_size: choices per batch.

    Returns:
        One entry per question: whether the right choice scored highest.
    """
    model.eval()
    questions = load_probe() if questions is None else questions
    rows: list[tuple[list[int], int]] = []
    for question in questions:
        prompt_ids = tokenizer(f"Question: {question['question']}\nAnswer:")["input_ids"]
        for choice in question["choices"]:
            rows.append((prompt_ids + tokenizer(f" {choice}", add_special_tokens=False)["input_ids"], len(prompt_ids)))
    scores = torch.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = pad_sequence([torch.tensor(rows[i][0]) for i in batch], batch_first=True).to(model.device)
        mask = pad_sequence([torch.ones(len(rows[i][0]), dtype=torch.long) for i in batch], batch_first=True)
        # Only the choices' positions need the LM head; they lie in the last tokens of the padded batch.
        keep = ids.shape[1] - min(rows[i][1] for i in batch) + 1
        logits = model(
            ids, attention_mask=mask.to(model.device), logits_to_keep=keep, strength=strength, use_cache=False
        ).logits
        logp = logits.float().log_softmax(-1)
        offset = ids.shape[1] - keep
        for row, index in enumerate(batch):
            tokens, first = rows[index]
            positions = torch.arange(first - 1, len(tokens) - 1) - offset
            chosen = ids[row, first : len(tokens)]
            scores[index] = logp[row, positions.to(logp.device), chosen].mean()
    best = scores.view(len(questions), -1).argmax(dim=1).tolist()
    return [guess == question["answer"] for guess, question in zip(best, questions, strict=True)]

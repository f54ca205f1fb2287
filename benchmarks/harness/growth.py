"""How the cost of a training step grows with the length of the rows and with the vocabulary."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qadapter.model import QAdapterForCausalLM

from .worker import Gate
from .workload import Workload, load_model


def step_on_rows(gate: Gate, *, device: str, workload: Workload, tokens: int, pairs: int) -> None:
    """A step on pairs whose packed rows have `tokens` tokens: half prompt, a quarter chosen, a quarter rejected."""
    model = QAdapterForCausalLM(load_model(workload, device))
    _turns(gate, model, _batch(tokens, pairs, model.config.vocab_size, device))


def step_on_vocabulary(gate: Gate, *, device: str, vocabulary: int) -> None:
    """A step of a small random model with a head of this size; 2,048 tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.device(device):
        base = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, dtype=torch.bfloat16)).to(torch.bfloat16)
    _turns(gate, QAdapterForCausalLM(base), _batch(512, 4, vocabulary, device))


def _batch(tokens: int, pairs: int, vocabulary: int, device: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    prompt, response = tokens // 2, tokens // 4
    ids = torch.randint(5, vocabulary, (2 * pairs, prompt + response), device=device)
    ids[pairs:, :prompt] = ids[:pairs, :prompt]
    completion = torch.zeros_like(ids, dtype=torch.bool)
    completion[:, prompt:] = True
    terminated = torch.ones(2 * pairs, dtype=torch.bool, device=device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": completion,
        "terminated": terminated,
    }


def _turns(gate: Gate, model: QAdapterForCausalLM, batch: dict[str, torch.Tensor]) -> None:
    model.train()
    gate.ready(pairs=len(batch["terminated"]) // 2)
    while gate.wait():
        model(**batch).loss.backward()
        gate.report()
        model.zero_grad(set_to_none=True)

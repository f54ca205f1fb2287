"""Exports from the command line, loaded again by the libraries they are for, and the dense truth about them."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import torch
import transformers
from conftest import two_logits
from peft import LoraConfig

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.cli.main import main
from qadapter.data import encode_prompt
from qadapter.evaluate.inputs import read_neutral_prompts
from qadapter.evaluate.retention import as_input
from qadapter.generate import answer_prompts

IDS = torch.tensor([[1, 9, 10, 11, 12, 30, 31], [1, 3, 8, 20, 5, 44, 2]])
DORA = LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")


def export(adapter: Path, target: str, output: Path, *flags: object) -> Path:
    assert main(["export", str(adapter), "--to", target, "--output", str(output), *map(str, flags)]) == 0
    return output


def reloaded(target: str, folder: Path, adapter: Path) -> torch.nn.Module:
    if target == "merged":
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    base = transformers.AutoModelForCausalLM.from_pretrained(adapter.parent / "base")
    return peft.PeftModel.from_pretrained(base, folder).eval()


def record_of(folder: Path) -> dict:
    return json.loads((folder / "qadapter_export.json").read_text(encoding="utf-8"))


@torch.no_grad()
def dense_kl(adapter: Path, exported: torch.nn.Module, strength: float, prompts_file: Path) -> float:
    """KL(exact ‖ exported) per token, one unpadded sequence at a time, from two passes through PEFT's own switch."""
    model, tokenizer = QAdapterForCausalLM.from_pretrained(adapter), load_tokenizer(adapter)
    texts = [as_input(row, tokenizer) for row in read_neutral_prompts(str(prompts_file))]
    total, tokens = 0.0, 0
    for text in texts:
        (answer,) = answer_prompts(model, tokenizer, [text], max_new_tokens=32, strength=strength)
        prompt = encode_prompt(text, tokenizer)
        ids = torch.tensor([prompt + answer.token_ids])
        z1, z0 = two_logits(model, input_ids=ids)
        exact = (strength * z1 + (1 - strength) * z0).double().log_softmax(-1)
        got = exported(ids).logits.double().log_softmax(-1)
        kl = (exact.exp() * (exact - got)).sum(-1)[0, len(prompt) - 1 : -1]
        total, tokens = total + kl.sum().item(), tokens + len(kl)
    return total / tokens

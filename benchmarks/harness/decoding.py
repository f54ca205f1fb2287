"""Decoding: seconds per token of the mixed policy and of what it is compared with; one answer per turn."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from qadapter.model import QAdapterForCausalLM, QConstants

from .training import LORA
from .worker import Gate
from .workload import Workload, load_model

PROMPT_TOKENS, NEW_TOKENS = 96, 64


def decode(gate: Gate, *, device: str, workload: Workload, kind: str, static_cache: bool = False) -> None:
    """Greedy answers.

    Args:
        kind: `base`; `mixed` (strength 0.5); `one_pass` (strength 1 with ρ = 1, adapter kept apart); `folded` (the
            same, adapter folded into the weights); `peft` (plain LoRA model); `two_pass` (the mixture by two
            sequential passes with PEFT's `disable_adapter`).
        static_cache: a static cache, and with it what transformers compiles on CUDA.
    """
    torch.manual_seed(workload.seed)
    base = load_model(workload, device)
    if kind in ("peft", "two_pass"):
        model: Any = get_peft_model(base, LoraConfig(**LORA))
    elif kind == "base":
        model = base
    else:
        model = QAdapterForCausalLM(base, QConstants(), LoraConfig(**LORA))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    dial = {"mixed": {"strength": 0.5}, "one_pass": {"strength": 1.0}}.get(kind, {})
    if kind == "folded":
        model = model.fold()
    model.eval()
    prompt = torch.randint(5, base.config.vocab_size, (1, PROMPT_TOKENS), device=device)
    gate.ready()
    while gate.wait():
        clock = _Clock(gate)
        if kind == "two_pass":
            _two_sequential_passes(model, prompt, clock)
        else:
            options = {"cache_implementation": "static"} if static_cache else {}
            model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, streamer=clock,
                min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, pad_token_id=0, **dial, **options,
            )  # fmt: skip
        gate.report(seconds_per_token=clock.seconds_per_token(), new_tokens=NEW_TOKENS)


class _Clock(BaseStreamer):
    """When each token came."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.times = gate, []

    def put(self, value: Tensor) -> None:
        self.times.append(self.gate.now())

    def end(self) -> None:
        pass

    def seconds_per_token(self) -> float:
        """Median time between two tokens; the prompt and the first token are left out."""
        return statistics.median(later - earlier for earlier, later in itertools.pairwise(self.times[1:]))


@torch.inference_mode()
def _two_sequential_passes(model: PeftModel, prompt: Tensor, clock: _Clock) -> None:
    """log π̃ from two full passes per token, each with its own cache, as two models side by side would."""
    caches: list[Any] = [None, None]
    token, logits = prompt, []
    clock.put(token)
    for _ in range(NEW_TOKENS):
        logits = []
        for policy in (0, 1):
            output = _base_pass(model, token, caches[1]) if policy else model(token, past_key_values=caches[0])
            caches[policy] = output.past_key_values
            logits.append(output.logits[:, -1].float())
        token = (0.5 * logits[0] + 0.5 * logits[1].log_softmax(dim=-1)).argmax(dim=-1, keepdim=True)
        clock.put(token)


def _base_pass(model: PeftModel, token: Tensor, cache: Any) -> Any:
    with model.disable_adapter():
        return model(token, past_key_values=cache)

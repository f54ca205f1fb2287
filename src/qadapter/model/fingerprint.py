"""Which base model and which tokenizer an adapter belongs to."""

from __future__ import annotations

import hashlib
import json

import torch
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .quantization import is_quantized

# A few entries of every weight tell any two models apart, also two fine-tunings of one base, and cost nothing.
_ENTRIES = 64


def weights_fingerprint(base: PreTrainedModel) -> str | None:
    """A hash of a few entries of every base weight, rounded to bfloat16 so that it is the same in every load dtype.

    Args:
        base: the base model, with or without LoRA layers injected.

    Returns:
        A SHA-256 in hex, or None where the weights cannot be read (quantized, or on the meta device).
    """
    if is_quantized(base):
        return None
    digest = hashlib.sha256()
    for name, parameter in _base_parameters(base):
        if parameter.is_meta:
            return None
        entries = parameter.detach().flatten()[:_ENTRIES].to("cpu", torch.bfloat16)
        digest.update(name.encode() + str(tuple(parameter.shape)).encode())
        digest.update(entries.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapter_fingerprint(model: torch.nn.Module) -> str:
    """A hash of the adapter's factors, as they are loaded.

    Returns:
        A SHA-256 in hex.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            digest.update(name.encode() + str(tuple(parameter.shape)).encode())
            digest.update(parameter.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _base_parameters(base: PreTrainedModel) -> list[tuple[str, torch.nn.Parameter]]:
    adapter_ids = {
        id(parameter)
        for module in base.modules()
        if isinstance(module, LoraLayer)
        for name, parameter in module.named_parameters()
        if not name.startswith("base_layer.")
    }
    return sorted(
        (name.replace("base_layer.", ""), parameter)
        for name, parameter in base.named_parameters()
        if id(parameter) not in adapter_ids
    )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what decides how text becomes tokens: vocabulary, special tokens, chat template.

    Returns:
        A SHA-256 in hex.
    """
    facts = {
        "vocab": sorted(tokenizer.get_vocab().items()),
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

"""Which base model and which tokenizer an adapter belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from .quantization import is_quantized

# A few entries of every weight tell any two models apart, also two fine-tunings of one base, and cost nothing.
_ENTRIES = 64


class BaseFingerprint(NamedTuple):
    """Hashes (SHA-256 in hex) of a base's weights; None where they cannot be read (on the meta device)."""

    weights_sha256: str | None
    """Of all weights; None where they are quantized."""
    unquantized_sha256: str | None
    """Of embeddings and norms alone: quantization leaves them as they are, so they tell of a quantized base, too."""


def base_fingerprint(base: PreTrainedModel) -> BaseFingerprint:
    """Hashes of a few entries of every base weight, the same in every dtype that a base is loaded in.

    A checkpoint stored in float32 is an exception: loaded in float16 it is rounded to another one.

    Args:
        base: the base model, with or without LoRA layers injected.
    """
    parameters = _base_parameters(base)
    if any(parameter.is_meta for _, parameter in parameters):
        return BaseFingerprint(None, None)
    unquantized = _embeddings_and_norms(base)
    return BaseFingerprint(
        None if is_quantized(base) else _digest(parameters),
        _digest((name, parameter) for name, parameter in parameters if id(parameter) in unquantized),
    )


def _digest(parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters:
        entries = parameter.detach().flatten()[:_ENTRIES].to("cpu", torch.bfloat16)
        # float16 keeps fewer bits of what is smaller.
        entries = entries.where(entries.abs() >= torch.finfo(torch.float16).smallest_normal, 0)
        digest.update(name.encode() + str(tuple(parameter.shape)).encode())
        digest.update(entries.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapter_fingerprint(model: nn.Module) -> str:
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


def _embeddings_and_norms(base: PreTrainedModel) -> set[int]:
    """The ids of their parameters: of every module but linear layers, whose biases a quantizer may take along."""
    return {
        id(parameter)
        for module in base.modules()
        if not isinstance(module, (nn.Linear, Conv1D))
        for parameter in module.parameters(recurse=False)
        if isinstance(module, nn.Embedding) or parameter.ndim == 1
    }


def _base_parameters(base: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
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
        "chat_template": _with_plain_newlines(tokenizer.chat_template),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _with_plain_newlines(template: Any) -> Any:
    """A chat template, or several by name, as a file gives it back; to Jinja all line ends are the same."""
    if isinstance(template, dict):
        return {name: _with_plain_newlines(one) for name, one in template.items()}
    return template.replace("\r\n", "\n").replace("\r", "\n") if isinstance(template, str) else template

"""The LoRA folded into the base's weights: a plain model of the base's class.

Weights in half precision are rounded when the LoRA is added, and small updates are lost to that: where they are, the
policy that is measured is that of the rounded weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from ..baselines import scaled_adapter
from ..evaluate.inputs import read_neutral_prompts
from ..model import QAdapterForCausalLM
from .arguments import MergedArguments
from .card import write_card
from .new_folder import new_folder
from .single import check_single_policy, measured_distance, report
from .source import Source


def export(source: Source, args: MergedArguments, output: str, *, overwrite: bool) -> None:
    """Write the model as safetensors, the tokenizer and a card.

    Raises:
        ConfigError: the policy is no single model, or `output` is in use.
        DataError: the prompts cannot be read.
    """
    check_single_policy(source.constants, "merged")
    with new_folder(output, overwrite) as folder:
        write_model(source, args, folder)


def write_model(source: Source, args: MergedArguments, folder: Path) -> None:
    """The same into a folder that exists."""
    prompts = read_neutral_prompts(args.prompts)
    model, tokenizer = source.load()
    distance = None
    if args.strength != 1 or model.dtype != torch.float32:
        exported = partial(_as_folded, model, args.strength)
        distance = measured_distance(model, tokenizer, exported, strength=args.strength, prompts=prompts)
    report(args.strength, distance)
    with scaled_adapter(model, args.strength):
        folded = model.fold()
    folded.save_pretrained(folder, max_shard_size=args.max_shard_size)
    tokenizer.save_pretrained(folder)
    write_card(
        folder, source, target="merged", strength=args.strength, what="merged weights", distance=distance,
        library="transformers", how_to_load=_HOW_TO_LOAD,
    )  # fmt: skip


def _as_folded(model: QAdapterForCausalLM, scale: float, **inputs: Any) -> Any:
    """What the folded weights will answer, without folding them for good."""
    with scaled_adapter(model, scale), _folding_layers(model):
        return model(**inputs)


@contextmanager
def _folding_layers(model: QAdapterForCausalLM) -> Iterator[None]:
    """Inside, every LoRA layer multiplies by its folded weight; one of these exists at a time."""
    layers = model.row_router.layers
    before = [layer.forward for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(_folded_forward, layer)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            layer.forward = forward


def _folded_forward(layer: LoraLayer, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """PEFT's own fold of one layer, undone exactly: subtracting the update again would not restore the bits."""
    kept = [(parameter, parameter.data) for parameter in layer.base_layer.parameters()]
    try:
        for parameter, data in kept:
            parameter.data = data.clone()
        layer.merge(safe_merge=True)
        return layer.base_layer(x, *args, **kwargs)
    finally:
        layer.merged_adapters.clear()
        for parameter, data in kept:
            parameter.data = data


_HOW_TO_LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```

Any engine that runs the base model runs it."""

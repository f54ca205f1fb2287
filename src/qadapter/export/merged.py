"""The LoRA folded into the base's weights: a plain model of the base's class.

Weights in half precision are rounded when the LoRA is added, and small updates are lost to that: where they are, the
policy that is measured is that of the rounded weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from ..baselines import scaled_adapter
from ..evaluate.inputs import read_neutral_prompts
from ..evaluate.policy import forward_at
from ..model import QAdapterForCausalLM
from .arguments import MergedArguments, PeftArguments
from .card import write_card
from .end_of_turn import added_stop_ids, stop_note, write_stop_ids
from .new_folder import new_folder
from .single import ExportDistance, check_single_policy, measured_distance, probe, report
from .source import Source

logger = logging.getLogger(__name__)


def export(source: Source, args: MergedArguments, output: str, *, overwrite: bool) -> None:
    """Write the model as safetensors, the tokenizer and a card.

    Raises:
        ConfigError: the policy is no single model, or `output` is in use.
        DataError: the prompts cannot be read.
    """
    check_single_policy(source.constants, "merged")
    with new_folder(output, overwrite) as folder:
        distance, _ = write_model(source, args, folder, args.max_shard_size)
        write_card(
            folder, source, target="merged", strength=args.strength, what="merged weights", distance=distance,
            brings_base=True, library="transformers", how_to_load=_HOW_TO_LOAD,
        )  # fmt: skip


class WrittenModel(NamedTuple):
    """What there is to say of a model that `write_model` wrote."""

    distance: ExportDistance | None
    """None where it is the exact policy."""
    stop_note: str
    """Where answers end, for a form that leaves the model's generation config behind."""


def write_model(
    source: Source, args: PeftArguments, folder: Path, max_shard_size: str, *, rounded: bool = False
) -> WrittenModel:
    """Measure, say what was found, and write model and tokenizer into a folder that exists.

    Args:
        source: the artifact.
        args: the strength, and the prompts to measure on.
        folder: where to.
        max_shard_size: of one file.
        rounded: whether fewer digits are kept of what is written here.
    """
    prompts = read_neutral_prompts(args.prompts)
    model, tokenizer = source.load()
    distance = None
    if args.strength != 1 or model.dtype != torch.float32:
        states = probe(model, tokenizer, args.strength, prompts)
        exported = partial(_as_folded, model, args.strength)
        distance = measured_distance(states, forward_at(model, args.strength), exported, model.device)
    if model.dtype != torch.float32:
        logger.info("folding rounds the weights to %s; --dtype float32 keeps their digits", str(model.dtype)[6:])
    report(args.strength, distance, source.departures(brings_base=True, rounded=rounded))
    ends, note = added_stop_ids(model, tokenizer), stop_note(model, tokenizer)
    with scaled_adapter(model, args.strength):
        folded = model.fold()
    folded.save_pretrained(folder, max_shard_size=max_shard_size)
    write_stop_ids(folder, ends)
    tokenizer.save_pretrained(folder)
    return WrittenModel(distance, note)


def _as_folded(model: QAdapterForCausalLM, scale: float, **inputs: Any) -> Any:
    """What the folded weights will answer, without folding them for good."""
    with scaled_adapter(model, scale), _folding_layers(model):
        return forward_at(model, 1.0)(**inputs)


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

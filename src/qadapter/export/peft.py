"""A plain LoRA.

At strength 1 it is the adapter itself, which lies in the artifact's subfolder so that nobody takes it for the policy
where it is not. At strength η its factor B is multiplied by η; not every engine reads a fractional `lora_alpha`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ..baselines import scaled_adapter
from ..evaluate.inputs import read_neutral_prompts
from ..evaluate.policy import forward_at
from ..model import QAdapterForCausalLM
from ..model.quantization import load_in_of
from .arguments import PeftArguments
from .card import write_card
from .end_of_turn import stop_note
from .new_folder import new_folder
from .single import ExportDistance, check_single_policy, measured_distance, probe, report
from .source import Source


def export(source: Source, args: PeftArguments, output: str, *, overwrite: bool) -> None:
    """Write PEFT's files, the tokenizer and a card.

    Raises:
        ConfigError: the policy is no LoRA, or `output` is in use.
        DataError: the prompts cannot be read.
    """
    check_single_policy(source.constants, "peft")
    with new_folder(output, overwrite) as folder:
        model, tokenizer, distance = write_lora(source, args, folder)
        tokenizer.save_pretrained(folder)
        write_card(
            folder, source, target="peft", strength=args.strength, what="a plain LoRA", distance=distance,
            brings_base=False, loaded_in=load_in_of(model.base), library="peft",
            how_to_load=how_to_load_lora(source.base_name) + stop_note(model, tokenizer),
        )  # fmt: skip


class WrittenLora(NamedTuple):
    """What `write_lora` wrote."""

    model: QAdapterForCausalLM
    """With the adapter as it was written."""
    tokenizer: PreTrainedTokenizerBase
    distance: ExportDistance | None
    """None where it is the exact policy."""


def write_lora(source: Source, args: PeftArguments, folder: Path, *, rounded: bool = False) -> WrittenLora:
    """Measure, say what was found, and write PEFT's files into a folder that exists.

    Args:
        source: the artifact.
        args: the strength, and the prompts to measure on.
        folder: where to.
        rounded: whether fewer digits are kept of what is written here.
    """
    prompts = read_neutral_prompts(args.prompts)
    model, tokenizer = source.load()
    distance = None
    if args.strength != 1:
        states = probe(model, tokenizer, args.strength, prompts)
        exported = partial(_as_scaled, model, args.strength)
        distance = measured_distance(states, forward_at(model, args.strength), exported, model.device)
    report(args.strength, distance, source.departures(brings_base=False, rounded=rounded))
    scale_factors(model, args.strength)
    save_lora(model.peft_model, folder)
    return WrittenLora(model, tokenizer, distance)


def save_lora(peft_model: PeftModel, folder: Path) -> None:
    """Write PEFT's files; of an embedding with a LoRA the factors alone.

    PEFT would look the base's vocabulary up on the hub and add its whole embedding.
    """
    peft_model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


@torch.no_grad()
def scale_factors(model: QAdapterForCausalLM, scale: float) -> None:
    """Multiply the LoRA's product by a number, for good."""
    for name, parameter in model.peft_model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            parameter.mul_(scale)


def _as_scaled(model: QAdapterForCausalLM, scale: float, **inputs: Any) -> Any:
    with scaled_adapter(model, scale):
        return forward_at(model, 1.0)(**inputs)


def how_to_load_lora(base_name: str) -> str:
    """Markdown for the card."""
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base_name}")
model, tokenizer = PeftModel.from_pretrained(base, "."), AutoTokenizer.from_pretrained(".")
```

Any engine that reads PEFT's LoRA files runs it, for example vLLM with `--enable-lora`."""

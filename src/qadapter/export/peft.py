"""A plain LoRA.

At strength 1 it is the adapter itself, which lies in the artifact's subfolder so that nobody takes it for the policy
where it is not. At strength η its factor B is multiplied by η; not every engine reads a fractional `lora_alpha`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..baselines import scaled_adapter
from ..evaluate.inputs import read_neutral_prompts
from ..model import QAdapterForCausalLM
from .arguments import PeftArguments
from .card import write_card
from .new_folder import new_folder
from .single import check_single_policy, measured_distance, report
from .source import Source


def export(source: Source, args: PeftArguments, output: str, *, overwrite: bool) -> None:
    """Write PEFT's files, the tokenizer and a card.

    Raises:
        ConfigError: the policy is no LoRA, or `output` is in use.
        DataError: the prompts cannot be read.
    """
    check_single_policy(source.constants, "peft")
    with new_folder(output, overwrite) as folder:
        write_lora(source, args, folder)


def write_lora(source: Source, args: PeftArguments, folder: Path) -> None:
    """The same into a folder that exists."""
    prompts = read_neutral_prompts(args.prompts)
    model, tokenizer = source.load()
    distance = None
    if args.strength != 1:
        exported = partial(_as_scaled, model, args.strength)
        distance = measured_distance(model, tokenizer, exported, strength=args.strength, prompts=prompts)
    report(args.strength, distance)
    with torch.no_grad():
        for name, parameter in model.peft_model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.mul_(args.strength)
    model.peft_model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    write_card(
        folder, source, target="peft", strength=args.strength, what="a plain LoRA", distance=distance, library="peft",
        how_to_load=_how_to_load(source.base_name),
    )  # fmt: skip


def _as_scaled(model: QAdapterForCausalLM, scale: float, **inputs: Any) -> Any:
    with scaled_adapter(model, scale):
        return model(**inputs)


def _how_to_load(base_name: str) -> str:
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base_name}")
model, tokenizer = PeftModel.from_pretrained(base, "."), AutoTokenizer.from_pretrained(".")
```

Any engine that reads PEFT's LoRA files runs it, for example vLLM with `--enable-lora`."""

"""What must be refused before a folder is written: bases and LoRAs for which the served policy would be another one.

All of it is read from JSON files and from the names of tensors, before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from ..errors import UnsupportedModelError
from .families import FAMILIES, Family
from .packing import PROJECTIONS

OTHER_WAYS = (
    "`qadapter serve` decodes with both policies; --to merged (where one set of weights is the policy) or "
    "--to distilled makes a model that every engine runs"
)

# What PEFT's options may be; everything else changes what a LoRA layer computes or where it stands.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": (None, []),
    "bias": ("none",),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False,),
    "arrow_config": (None,),
}


def check_base(config: Mapping[str, Any]) -> Family:
    """Refuse a base that was not written for.

    Args:
        config: the base's config.json.

    Returns:
        Its family.

    Raises:
        UnsupportedModelError: another family, quantized weights, or an option of attention or head that is not served.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        _refuse(f"the base's family {config.get('model_type')!r} was not written; there are {sorted(FAMILIES)}")
    sliding = "sliding_attention" in (config.get("layer_types") or []) or config.get("use_sliding_window")
    for is_so, what in (
        (config.get("quantization_config"), "quantized weights"),
        (config.get("final_logit_softcapping"), "a soft-capped head: its logits are not linear in the hidden states"),
        (config.get("logit_scale", 1.0) != 1.0, "a scaled head"),
        (sliding, "attention with a sliding window"),
        (config.get("dual_chunk_attention_config"), "dual chunk attention"),
        (not config.get("is_causal", True), "attention that is not causal"),
    ):
        if is_so:
            _refuse(f"the base has {what}, which is not served")
    return family


def check_lora(config: Mapping[str, Any]) -> tuple[int, float]:
    """Refuse a LoRA that is more than one low-rank product of one rank per layer.

    Args:
        config: PEFT's adapter_config.json.

    Returns:
        The rank, and the factor on the products.

    Raises:
        UnsupportedModelError: naming the option.
    """
    for option, plain in _PLAIN.items():
        if option in config and config[option] not in plain:
            _refuse(f"the LoRA option {option}={config[option]!r} is not served")
    rank = config["r"]
    return rank, config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_factors(names: Iterable[str]) -> tuple[str, ...]:
    """Refuse LoRA on anything but the projections of attention and MLP.

    Args:
        names: of the tensors in adapter_model.safetensors.

    Returns:
        The adapted projections, in the order of a block.

    Raises:
        UnsupportedModelError: LoRA on the embedding, the head or another module.
    """
    adapted = set()
    for name in names:
        # PEFT keeps the weights of an adapted embedding beside its factors.
        module = name.removeprefix("base_model.model.").removesuffix(".base_layer.weight").split(".lora_")[0]
        projection = module.rsplit(".", 1)[-1]
        if projection not in PROJECTIONS:
            what = {"embed_tokens": "the embedding", "lm_head": "the LM head"}.get(projection, module)
            _refuse(f"LoRA on {what} is not served, only on {', '.join(PROJECTIONS)}")
        adapted.add(projection)
    return tuple(projection for projection in PROJECTIONS if projection in adapted)


def _refuse(reason: str) -> NoReturn:
    raise UnsupportedModelError(f"--to vllm: {reason}.", hint=OTHER_WAYS)

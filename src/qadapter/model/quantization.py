"""A frozen base whose linear layers are stored in 8 or 4 bits (bitsandbytes), for large models on small cards.

The base is then what is stored: π₀ is the quantized model's policy, in training and at decode time. The LoRA is trained
in float32 beside it (QLoRA, arXiv 2305.14314). Embeddings, norms and the LM head stay in `dtype`.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from ..errors import ConfigError, MissingExtraError

LOAD_IN = ("8bit", "4bit")


def quantization_config(load_in: str, dtype: str | torch.dtype) -> BitsAndBytesConfig:
    """How `from_pretrained` shall store the linear layers.

    Args:
        load_in: `8bit` (LLM.int8) or `4bit` (NF4, its scales quantized too).
        dtype: of what is not quantized and of the products; "auto" multiplies in bfloat16.

    Raises:
        ConfigError: another word.
        MissingExtraError: bitsandbytes is not installed.
    """
    if load_in not in LOAD_IN:
        raise ConfigError(f"load_in must be one of {', '.join(LOAD_IN)}, got {load_in!r}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quantized", f"a base in {load_in}")
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16,
    )


def is_quantized(base: PreTrainedModel) -> bool:
    """Whether the weights of a base are stored in another form than numbers, by any method."""
    return getattr(base, "hf_quantizer", None) is not None


def load_in_of(base: PreTrainedModel) -> str | None:
    """`8bit` or `4bit` where bitsandbytes stores the base so, otherwise None."""
    if getattr(base, "is_loaded_in_8bit", False):
        return "8bit"
    return "4bit" if getattr(base, "is_loaded_in_4bit", False) else None


def keep_gradients(base: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing 4-bit weights for a CPU at the first pass in eval mode.

    No gradient goes through a packed layer any more, without a word: training would go on with wrong ones.

    Args:
        base: with or without such layers; mutated.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def rounds_activations_in_eval_mode(module: nn.Module) -> bool:
    """Whether a module is a layer of bitsandbytes in 8 bits.

    On a CPU or an XPU it multiplies by the dequantized weights in train mode. In eval mode it rounds the activations to
    8 bits, too, but for columns in which any row of the batch has an outlier: that decodes many times as fast, and a
    row's result depends on the others. On other devices the mode does not matter.
    """
    return hasattr(module, "init_8bit_state")

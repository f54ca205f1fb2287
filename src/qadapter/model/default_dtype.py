"""The dtype that the frozen weights get where none is named."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # as `torch.cpu.get_capabilities` names them; ARM's last


def multiplies_bfloat16() -> bool:
    """Whether this machine has instructions for products in bfloat16.

    A CPU without them computes such products several times slower than those in float32. True where there is an
    accelerator, and where this version of torch cannot say what the CPU has.
    """
    if torch.accelerator.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)


def machine_dtype(wanted: str) -> str:
    """The dtype to load with where the user has named none.

    Args:
        wanted: `bfloat16`, or `auto` for the checkpoint's.

    Returns:
        `wanted`, or `float32` on a CPU without instructions for products in bfloat16; that is said in the log.
    """
    if multiplies_bfloat16():
        return wanted
    logger.info("this CPU has no bfloat16 instructions: the weights are held in float32")
    return "float32"

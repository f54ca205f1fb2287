"""The dtype that the frozen weights get where none is named, by the device that multiplies them."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # as `torch.cpu.get_capabilities` names them; ARM's last


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device has instructions for products in bfloat16.

    A CPU without them computes such products several times slower than those in float32. True for every accelerator,
    and where this version of torch cannot say what the CPU has.
    """
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)


def machine_dtype(wanted: str, device: str) -> str:
    """The dtype to load with where the user has named none.

    Args:
        wanted: `bfloat16`, or `auto` for the checkpoint's.
        device: type of the device that will compute: cpu, cuda, mps, ...

    Returns:
        `wanted`, or `float32` on a CPU without instructions for products in bfloat16; that is said in the log.
    """
    if multiplies_bfloat16(device):
        return wanted
    logger.info("this CPU has no bfloat16 instructions: the weights are held in float32")
    return "float32"


def training_device(use_cpu: bool) -> str:
    """The type of the device that transformers' Trainer takes."""
    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if use_cpu or accelerator is None or not torch.accelerator.is_available() else accelerator.type


def decoding_device() -> str:
    """The type of the device that the commands decode and measure on."""
    return "cuda" if torch.cuda.is_available() else "cpu"

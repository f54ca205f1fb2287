"""Tensors that are spread over processes, as wholes and back.

With them a checkpoint holds what one process would have written, and any number of processes, under any engine, can go
on from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import get_peft_model_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ..model import QAdapterForCausalLM


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full. Where it is sharded, all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor as its shard of this process, where `other`, of the same shape, is sharded."""
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


def whole_adapter(model: QAdapterForCausalLM) -> dict[str, Tensor]:
    """The adapter's factors by their names in the `PeftModel`, whole and on the CPU. All processes must call this."""
    return {
        name: _whole_parameter(parameter).cpu()
        for name, parameter in model.peft_model.named_parameters()
        if "lora_" in name
    }


def _whole_parameter(parameter: Tensor) -> Tensor:
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):  # ZeRO-3; ZeRO-1 and 2
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter)
    return whole(parameter.detach())


@torch.no_grad()
def load_adapter(model: QAdapterForCausalLM, saved: dict[str, Tensor]) -> None:
    """Give the adapter the factors of an artifact, under PEFT's names in it, whether or not the model is sharded."""
    for name, tensor in get_peft_model_state_dict(model.peft_model, save_embedding_layers=False).items():
        tensor.copy_(spread_like(saved[name], tensor))


def whole_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`state_dict()` of an optimizer with whole tensors. All processes must call this."""
    found = optimizer.state_dict()
    return {**found, "state": {index: _each_tensor(whole, entry) for index, entry in found["state"].items()}}


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimizer the state that `whole_optimizer` found, in this run or in one with other processes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def spread(index: int, entry: dict[str, Any]) -> dict[str, Any]:
        parameter = parameters[index]
        return _each_tensor(lambda value: spread_like(value, parameter) if value.ndim else value, entry)

    optimizer.load_state_dict({**saved, "state": {index: spread(index, one) for index, one in saved["state"].items()}})


def _each_tensor(change: Callable[[Tensor], Tensor], entry: dict[str, Any]) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in entry.items()}

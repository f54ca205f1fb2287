"""A linear layer of vLLM with low-rank products on the adapter's half of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import (
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    UnquantizedLinearMethod,
)

from ...errors import UnsupportedModelError
from ..packing import MERGED, Factors, Part, pack_factors


class LowRankLinearMethod(UnquantizedLinearMethod):
    """vLLM's place for other products than x·Wᵀ. The first half of the rows is the adapter's.

    It acts before the results of several processes are summed: under tensor parallelism the parts of the low-rank
    products add up as the parts of the base's product do.
    """

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out = super().apply(layer, x, bias)
        half = x.shape[0] // 2
        out[:half].addmm_(x[:half] @ layer.lora_a, layer.lora_b)
        return out


class LowRank:
    """The LoRA of one merged layer.

    Args:
        linear: of a decoder layer; it gets the parameters `lora_a`, `lora_b` and another `quant_method`.
        name: its name in the decoder layer, a key of `MERGED`.
        targets: the adapted projections.
        rank: of each.

    Raises:
        UnsupportedModelError: a quantized layer.
    """

    def __init__(self, linear: LinearBase, name: str, targets: tuple[str, ...], rank: int) -> None:
        if type(linear.quant_method) is not UnquantizedLinearMethod:
            raise UnsupportedModelError(
                f"{name} is quantized ({type(linear.quant_method).__name__}).",
                hint="serve the base in bfloat16, or quantize a merged export (qadapter export --to merged)",
            )
        self.linear, self.rank = linear, rank
        self.parts = [part for part in parts_held(linear, MERGED[name]) if part.projection in targets]
        outputs, inputs = linear.weight.shape
        factors = Factors(torch.zeros(inputs, len(self.parts) * rank), torch.zeros(len(self.parts) * rank, outputs))
        if self.parts:
            linear.quant_method = LowRankLinearMethod()
            for parameter, value in zip(("lora_a", "lora_b"), factors, strict=True):
                linear.register_parameter(parameter, nn.Parameter(value.to(linear.weight.dtype), requires_grad=False))

    def load(self, factors: Mapping[str, Factors], scaling: float) -> None:
        """Fill the parameters.

        Args:
            factors: of the decoder layer, by projection. A layer of which none is adapted keeps its zeros.
            scaling: factor on their products.
        """
        mine = {part.projection: factors[part.projection] for part in self.parts if part.projection in factors}
        if mine:
            inputs, outputs = inputs_held(self.linear), self.linear.lora_b.shape[1]
            packed = pack_factors(mine, self.parts, rank=self.rank, scaling=scaling, inputs=inputs, outputs=outputs)
            self.linear.lora_a.data.copy_(packed.a)
            self.linear.lora_b.data.copy_(packed.b)


def parts_held(linear: LinearBase, projections: tuple[str, ...]) -> list[Part]:
    """What this process holds of the projections of a merged layer: all of them, without tensor parallelism."""
    if isinstance(linear, QKVParallelLinear):
        # Where there are fewer KV heads than processes, several processes hold the same one.
        kv = (linear.num_kv_heads * linear.head_size, linear.tp_rank // linear.num_kv_head_replicas)
        held = [(linear.num_heads * linear.head_size, linear.tp_rank), kv, kv]
    elif isinstance(linear, MergedColumnParallelLinear):
        held = [(size // linear.tp_size, linear.tp_rank) for size in linear.output_sizes]
    else:
        held = [(linear.output_size, 0)]
    parts, start = [], 0
    for projection, (width, index) in zip(projections, held, strict=True):
        parts.append(Part(projection, slice(index * width, (index + 1) * width), slice(start, start + width)))
        start += width
    return parts


def inputs_held(linear: LinearBase) -> slice:
    """Which of the inputs this process holds: those of a row-parallel layer are divided."""
    held = linear.input_size_per_partition
    return slice(None) if held == linear.input_size else slice(linear.tp_rank * held, (linear.tp_rank + 1) * held)

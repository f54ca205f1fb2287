"""LoRA factors in the shape of vLLM's merged linear layers.

vLLM keeps q, k and v in one matrix, gate and up in another. Their LoRA factors are packed alike, so that each merged
layer takes two small products: A side by side, B block-diagonal with the scaling folded in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArtifactError

MERGED = {
    "self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "self_attn.o_proj": ("o_proj",),
    "mlp.gate_up_proj": ("gate_proj", "up_proj"),
    "mlp.down_proj": ("down_proj",),
}
"""vLLM's linear layers of a block and the projections they hold, in their order."""
PROJECTIONS = tuple(projection for held in MERGED.values() for projection in held)

# PEFT's name of a factor in adapter_model.safetensors.
_FACTOR = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.\w+\.(\w+)\.lora_([AB])\.weight")


class Factors(NamedTuple):
    """The LoRA of one projection: its output is W·x + scaling · `b` · `a` · x."""

    a: Tensor
    """[rank, inputs]."""
    b: Tensor
    """[outputs, rank]."""


class Part(NamedTuple):
    """Where one projection's outputs lie in a merged layer of this process."""

    projection: str
    rows: slice
    """Of the factor B: which of the projection's outputs this process holds."""
    columns: slice
    """Of the merged output."""


def factors_by_layer(tensors: Mapping[str, Tensor]) -> dict[tuple[int, str], Factors]:
    """Sort PEFT's tensors by (layer, projection).

    Raises:
        ArtifactError: a tensor that is no LoRA factor of a projection in `MERGED`, or one without its counterpart.
    """
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or match[2] not in PROJECTIONS:
            raise ArtifactError(f"the adapter holds {name!r}, which is no LoRA factor of a projection served here.")
        found.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    half = next((key for key, pair in found.items() if len(pair) != 2), None)
    if half is not None:
        raise ArtifactError(f"the adapter holds one LoRA factor of layer {half[0]}, {half[1]}, but not the other.")
    return {key: Factors(pair["A"], pair["B"]) for key, pair in found.items()}


def pack_factors(
    factors: Mapping[str, Factors], parts: Sequence[Part], *, rank: int, scaling: float, inputs: slice, outputs: int
) -> Factors:
    """The factors of a merged layer, as `x @ a @ b` takes them.

    Args:
        factors: by projection, at least one; one that is absent adds nothing.
        parts: the adapted projections that the layer holds.
        rank: of each projection.
        scaling: factor on the products, folded into b.
        inputs: which of the projections' inputs this process holds.
        outputs: number of the merged layer's outputs in this process.

    Returns:
        a [inputs, parts · rank] and b [parts · rank, outputs], float32.
    """
    held = next(iter(factors.values())).a[:, inputs].shape[1]
    a, b = torch.zeros(held, len(parts) * rank), torch.zeros(len(parts) * rank, outputs)
    for number, part in enumerate(parts):
        if part.projection in factors:
            one, block = factors[part.projection], slice(number * rank, (number + 1) * rank)
            a[:, block] = one.a[:, inputs].float().t()
            b[block, part.columns] = scaling * one.b[part.rows].float().t()
    return Factors(a, b)

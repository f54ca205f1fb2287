"""The fastest matrix product of this machine, and the products that training cannot do without."""

from __future__ import annotations

import statistics

import torch
from transformers import PreTrainedModel

from .worker import Gate

# Rows × inner × columns: the products of the small model's training, and squares, which a vendor would quote.
SHAPES = [(2048, 576, 1536), (2048, 1536, 576), (1024, 576, 49152), (2048, 2048, 2048), (4096, 4096, 4096)]


def matmul_peak(gate: Gate, *, device: str) -> None:
    """Turns that report FLOP/s of the fastest shape, bfloat16."""
    factors = [(torch.randn(m, k).to(device, torch.bfloat16), torch.randn(k, n).to(device, torch.bfloat16))
               for m, k, n in SHAPES]  # fmt: skip
    gate.ready()
    while gate.wait():
        best = 0.0
        for (a, b), (m, k, n) in zip(factors, SHAPES, strict=True):
            flops = 2 * m * k * n
            calls = max(1, int(2e10 // flops))
            seconds = []
            for _ in range(3):
                start = gate.now()
                for _ in range(calls):
                    a @ b
                seconds.append((gate.now() - start) / calls)
            best = max(best, flops / statistics.median(seconds))
        gate.report(flops_per_second=best)


def training_flops(model: PreTrainedModel, unique_tokens: int, states: int, *, base_pass: bool = True) -> int:
    """FLOPs of the products that a step of the objective cannot do without.

    Per unique token 2N for the adapter's pass, 2N for the gradients of its inputs and 2N for the base's pass, with N
    the parameters of the frozen linear layers; per response token one product with the LM head for each policy, and
    one for the gradient. The LoRA's own products and the attention scores are left out, so the share is a lower bound.
    """
    head = model.get_output_embeddings().weight
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not head
    )
    passes = 3 if base_pass else 2
    return 2 * passes * (linear * unique_tokens + head.numel() * states)

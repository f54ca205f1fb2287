"""How much of KL(base ‖ customized) is rounding: the same adapters in float32 and in bfloat16.

    python benchmarks/kl_rounding.py       SmolLM2-135M-Instruct; some minutes on 2 cores

The base in bfloat16 rounds the output of every layer. Where an adapter changes little, both policies round apart
by more than they differ. A random LoRA of growing size is measured on a quarter of the neutral prompts, on the
same answers in both dtypes. The result goes to `benchmarks/results/kl-rounding.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from harness.machine import describe

from qadapter.evaluate import evaluate_retention, load_neutral_prompts
from qadapter.evaluate.retention import answer_as_base
from qadapter.model import QAdapterForCausalLM, QConstants, load_base, load_base_tokenizer, lora_config
from qadapter.model.loading import default_model_folder

RESULTS = Path(__file__).parent / "results" / "kl-rounding.json"
STRENGTHS = (0.5, 1.0)
# Standard deviations of the LoRA's B; its A is as PEFT draws it.
SIZES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02)


def main() -> int:
    name = str(default_model_folder())
    tokenizer = load_base_tokenizer(name)
    prompts = load_neutral_prompts()[::4]
    models = {dtype: random_adapter(name, dtype) for dtype in ("float32", "bfloat16")}
    answers = answer_as_base(models["bfloat16"], tokenizer, prompts)
    rows = []
    for size in SIZES:
        found = {}
        for dtype, model in models.items():
            resize(model, size)
            found[dtype] = evaluate_retention(
                model, tokenizer, prompts, strengths=STRENGTHS, base_answers=answers
            )  # fmt: skip
        for number, strength in enumerate(STRENGTHS):
            rows.append(
                {
                    "size": size,
                    "strength": strength,
                    **{dtype: results[number].kl_to_base for dtype, results in found.items()},
                    "top1_agreement_bfloat16": found["bfloat16"][number].top1_agreement,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    result = describe("cpu") | {"model": "SmolLM2-135M-Instruct", "prompts": len(prompts), "kl_to_base": rows}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def random_adapter(name: str, dtype: str) -> QAdapterForCausalLM:
    """The same LoRA whatever the dtype of the base."""
    torch.manual_seed(0)
    constants = QConstants("residual", alpha_0=1.0, alpha_tilde=1.0)
    model = QAdapterForCausalLM(load_base(name, dtype=dtype), constants, lora_config(8, 16, 0.0, None)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in sorted(model.named_parameters()):
            if "lora_A" in key:
                weight.uniform_(-(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5, generator=generator)
    return model


@torch.no_grad()
def resize(model: QAdapterForCausalLM, size: float) -> None:
    """B drawn anew, the same in both dtypes."""
    generator = torch.Generator().manual_seed(1)
    for key, weight in sorted(model.named_parameters()):
        if "lora_B" in key:
            weight.normal_(0.0, size, generator=generator)


if __name__ == "__main__":
    raise SystemExit(main())

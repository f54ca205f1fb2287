"""Tiny exported folders of every family, with heads as wide as vLLM's kernels ask for.

This folder is not called `vllm`: `tests/` is on Python's path, and TRL would take it for the library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers
from conftest import IDS, randomize_adapter

from qadapter import QAdapterForCausalLM, QConstants

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
BASES = {
    "llama": transformers.LlamaConfig(**SMALL, **IDS, head_dim=32, attention_bias=True, mlp_bias=True),
    "qwen2": transformers.Qwen2Config(**SMALL, **IDS),
    "qwen3": transformers.Qwen3Config(**SMALL, **IDS, head_dim=32, tie_word_embeddings=True),
}
CONSTANTS = {
    "llama": QConstants("logits", alpha_0=0.5, alpha_tilde=0.8),
    "qwen2": QConstants("residual", alpha_0=0.3, alpha_tilde=0.3),
    "qwen3": QConstants("residual", alpha_0=0.2, alpha_tilde=0.3),
}


class Exported(NamedTuple):
    """An exported folder and the artifact that it was made from."""

    folder: Path
    adapter: Path

    def model(self) -> QAdapterForCausalLM:
        return QAdapterForCausalLM.from_pretrained(self.adapter)


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: transformers.PreTrainedTokenizerFast
) -> Callable[[str], Exported]:
    from qadapter.cli.main import main

    made: dict[str, Exported] = {}

    def make(family: str) -> Exported:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            base = transformers.AutoModelForCausalLM.from_config(BASES[family])
            transformers.set_seed(0)
            for name, parameter in base.named_parameters():
                # Far from uniform, and biases that are not zero; norms keep their ones.
                if parameter.ndim == 2:
                    parameter.data.normal_(std=0.2 if "embed" in name or "head" in name else 0.1)
                elif name.endswith("bias"):
                    parameter.data.normal_(std=0.1)
            base.save_pretrained(root / "base")
            base.config.name_or_path = str(root / "base")
            model = randomize_adapter(QAdapterForCausalLM(base, CONSTANTS[family]), std=0.1)
            model.save_pretrained(root / "adapter", tokenizer=tokenizer)
            assert main(["export", str(root / "adapter"), "--to", "vllm", "--output", str(root / "out")]) == 0
            made[family] = Exported(root / "out", root / "adapter")
        return made[family]

    return make

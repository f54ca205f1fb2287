"""Tiny artifacts on disk, of several families, with a tokenizer and prompts to measure on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import RESIDUAL, make_model, randomize_adapter
from peft import LoraConfig

from qadapter import QConstants

PROMPTS = [
    {"kind": "chat", "prompt": "wa wb wc"},
    {"kind": "document", "prompt": "va vb"},
    {"kind": "chat", "prompt": "wd"},
    {"kind": "chat", "prompt": "vc vd ve wz"},
]
MakeArtifact = Callable[..., Path]


@pytest.fixture(scope="session")
def make_artifact(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: transformers.PreTrainedTokenizerFast
) -> MakeArtifact:
    """An artifact whose base lies in a folder beside it: ROOT/base and ROOT/adapter. Copy it before changing it."""
    made: dict[str, Path] = {}

    def make(
        family: str = "llama",
        constants: QConstants = RESIDUAL,
        lora: LoraConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        key = f"{family} {constants} {lora} {dtype}"
        if key not in made:
            root = tmp_path_factory.mktemp(family)
            base = make_model(family).peft_model.unload().to(dtype)
            base.save_pretrained(root / "base")
            tokenizer.save_pretrained(root / "base")
            model = make_model(family, constants, lora)
            model.base.to(dtype)
            # The size of a trained update: a larger one costs a digit of precision when it is folded.
            randomize_adapter(model, std=0.1)
            model.base.config.name_or_path = str(root / "base")
            model.save_pretrained(root / "adapter", tokenizer=tokenizer)
            made[key] = root / "adapter"
        return made[key]

    return make


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS), encoding="utf-8")
    return path

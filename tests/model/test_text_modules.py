"""A LoRA is put where a pass over text gets to: not on the vision tower of a multimodal model."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import transformers
from conftest import HEADS, IDS, RESIDUAL, SMALL, make_base, make_batch, model_from_config
from peft import LoraConfig

from qadapter.errors import ConfigError
from qadapter.model import QAdapterForCausalLM
from qadapter.model.text_modules import uncalled_modules

LORA = {"r": 4, "task_type": "CAUSAL_LM"}


def gemma3() -> transformers.Gemma3Config:
    """With a vision tower, whose attention has projections of the same names as the language model's."""
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.Gemma3Config(
        text_config={**SMALL, **HEADS, **IDS, "max_position_embeddings": 256, "query_pre_attn_scalar": 8},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        **{"image_token_index": 60, "boi_token_index": 58, "eoi_token_index": 59},
    )


def multimodal() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(gemma3()).eval()


def without_gradient(model: QAdapterForCausalLM) -> list[str]:
    model.train()(**make_batch()).loss.backward()
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]


def test_by_default_all_that_is_trained_gets_a_gradient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "qadapter"):
        model = model_from_config(gemma3())
    assert "leaves out what no pass over text calls: model.vision_tower" in caplog.text
    assert "has no module" not in caplog.text, "what is left out is there"
    assert without_gradient(model) == []
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 7 * SMALL["num_hidden_layers"]
    assert all("language_model" in name for name in names)
    model.save_pretrained(tmp_path)
    base = multimodal()
    base.load_state_dict(model.peft_model.unload().state_dict())
    loaded = dict(QAdapterForCausalLM.from_pretrained(tmp_path, base).named_parameters())
    assert {name for name in loaded if "lora_" in name} == set(names)


@pytest.mark.parametrize("excluded", [["layers.0.mlp.up_proj"], r".*layers\.0\.mlp\.up_proj"], ids=["names", "pattern"])
def test_what_else_is_excluded_stays_excluded(excluded: list[str] | str) -> None:
    lora = LoraConfig(target_modules="all-linear", exclude_modules=excluded, **LORA)
    model = model_from_config(gemma3(), lora=lora)
    assert without_gradient(model) == []
    assert len([p for p in model.parameters() if p.requires_grad]) == 2 * (7 * SMALL["num_hidden_layers"] - 1)
    assert "vision" not in str(lora.exclude_modules), "the caller's own config"


def test_named_modules_that_text_does_not_reach_are_refused_and_the_base_stays_as_it_was() -> None:
    base = multimodal()
    before = set(base.state_dict())
    with pytest.raises(
        ConfigError, match=r"2 modules of Gemma3ForCond\w+ that would[\s\S]*vision_tower[\s\S]*exclude_modules"
    ):
        QAdapterForCausalLM(base, RESIDUAL, LoraConfig(target_modules=["q_proj"], **LORA))
    assert set(base.state_dict()) == before
    lora = LoraConfig(target_modules=["q_proj"], exclude_modules=r"model\.vision_tower(\..*)?", **LORA)
    assert without_gradient(QAdapterForCausalLM(base, RESIDUAL, lora)) == []


def test_single_layers_that_are_not_called_are_found() -> None:
    base = make_base()
    attention = base.model.layers[1].self_attn
    attention.spare_proj = torch.nn.Linear(32, 32)
    assert uncalled_modules(base) == ["model.layers.1.self_attn.spare_proj"]
    assert without_gradient(QAdapterForCausalLM(base, RESIDUAL)) == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_text_model_keeps_its_lora(family: str) -> None:
    model = QAdapterForCausalLM(make_base(family), RESIDUAL)
    assert model.peft_model.active_peft_config.exclude_modules is None

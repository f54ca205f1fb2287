"""What is refused before a folder is written, each with the reason and the alternatives."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig

from qadapter.errors import UnsupportedModelError
from qadapter.vllm.families import FAMILIES
from qadapter.vllm.packing import PROJECTIONS
from qadapter.vllm.servable import check_base, check_factors, check_lora

BASE = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": None, "layer_types": ["full_attention"]}
LORA = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], task_type="CAUSAL_LM").to_dict()


def test_the_families_are_served() -> None:
    assert [check_base(BASE | {"model_type": name}).served for name in FAMILIES] == [
        "QAdapterLlamaForCausalLM",
        "QAdapterQwen2ForCausalLM",
        "QAdapterQwen3ForCausalLM",
    ]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "gemma2"}, "family 'gemma2' was not written"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"final_logit_softcapping": 30.0}, "soft-capped head"),
        ({"logit_scale": 0.5}, "scaled head"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"dual_chunk_attention_config": {"chunk_size": 1}}, "dual chunk"),
        ({"is_causal": False}, "not causal"),
    ],
)
def test_a_base_that_was_not_written_for_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word) as error:
        check_base(BASE | change)
    assert "qadapter serve" in str(error.value)


def test_rank_and_scaling() -> None:
    assert check_lora(LORA) == (4, 1.5)
    assert check_lora(LORA | {"use_rslora": True}) == (4, 3.0)


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"trainable_token_indices": [1, 2]},
        {"alora_invocation_tokens": [1]},
        {"peft_type": "IA3"},
    ],
)
def test_a_lora_that_is_more_than_a_low_rank_product_is_refused(change: dict[str, Any]) -> None:
    (option,) = change
    with pytest.raises(UnsupportedModelError, match=f"{option}=") as error:
        check_lora(LORA | change)
    assert "--to merged" in str(error.value)


def test_adapted_projections_come_in_the_order_of_a_block() -> None:
    names = [f"base_model.model.model.layers.3.x.{name}.lora_A.weight" for name in reversed(PROJECTIONS)]
    assert check_factors(names) == PROJECTIONS


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "LoRA on the embedding"),
        ("base_model.model.model.embed_tokens.base_layer.weight", "LoRA on the embedding"),
        ("base_model.model.lm_head.lora_A.weight", "LoRA on the LM head"),
        ("base_model.model.model.layers.0.mlp.router.lora_A.weight", "mlp.router"),
    ],
)
def test_lora_elsewhere_is_refused(name: str, word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        check_factors([name])

"""The formulas of docs/scale.md against the small measurements and a model itself; the page is what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import scale  # noqa: E402

RESULTS = json.loads(scale.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["flops", "seconds", "activations", "decoding"])
def test_a_formula_agrees_with_what_was_measured(name: str) -> None:
    _, formula, measured, tolerance = scale.predictions(RESULTS)[name]
    assert formula == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize("shape", [scale.SMALL, *scale.LARGE], ids=lambda shape: shape.name)
def test_parameters_are_those_of_the_model(shape: scale.Shape) -> None:
    config = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, head_dim=shape.head_size,
        vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        model.tie_weights()
        assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
        lora = LoraConfig(r=scale.RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, lora)
    assert sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name) == shape.lora(scale.RANK)


def test_hand_worked_numbers() -> None:
    """A model of one layer, on paper."""
    shape = scale.Shape("one", 2, 3, 1, 2, 1, 1, 5, tied=False)
    assert (shape.linear, shape.head, shape.parameters) == (4 + 2 + 2 + 4 + 18, 10, 30 + 20 + 6)
    assert shape.lora(1) == 4 + 3 + 3 + 4 + 5 + 5 + 5
    assert scale.training_flops(shape, 7, 3) == 6 * (30 * 7 + 10 * 3)
    assert scale.training_flops(shape, 7, 3, base_pass=False) == 4 * (30 * 7 + 10 * 3)
    assert scale.kv_bytes(shape, 2) == 2 * scale.kv_bytes(shape, 1) == 2 * 2 * 1 * 1 * 1 * 2
    assert scale.cache_bytes(shape, 10, hidden=True) == 10 * (8 + 4)
    assert scale.activation_bytes(shape, 1, checkpointing=False) == 2 * (12 + 6 + 12)
    assert scale.seconds(6e12, 1e12, 0.5) == 12


def test_more_cards_never_take_more_of_each() -> None:
    needed = [scale.training_bytes(scale.LARGE[1], 2000, cards, checkpointing=True) for cards in (1, 2, 4, 8)]
    assert needed == sorted(needed, reverse=True)
    with pytest.raises(ValueError, match="do not fit"):
        scale.cards_needed(scale.LARGE[1], 1e9, scale.CARDS[0], checkpointing=True)


def test_the_page_is_what_the_script_writes() -> None:
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page(RESULTS), "run python benchmarks/scale.py"

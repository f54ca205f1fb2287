"""Models whose RoPE takes other frequencies for a whole batch as soon as one row is long."""

from __future__ import annotations

import pytest
import torch
import transformers
from conftest import HEADS, IDS, RESIDUAL, SMALL, VOCABULARY, make_model, model_from_config

from qadapter.errors import ConfigError, DataError
from qadapter.generate import answer_prompts
from qadapter.model import QAdapterForCausalLM
from qadapter.serve.engine.masks import check_servable

STEADY = 16
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0], "rope_theta": 100.0}
HEADS_OF_8 = {"num_attention_heads": 4, "num_key_value_heads": 2}


def phi3() -> QAdapterForCausalLM:
    config = transformers.Phi3Config(
        **SMALL, **HEADS_OF_8, **IDS, rope_parameters=dict(LONG),
        max_position_embeddings=64, original_max_position_embeddings=STEADY,
    )  # fmt: skip
    return model_from_config(config, RESIDUAL)


def dynamic() -> QAdapterForCausalLM:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    config = transformers.LlamaConfig(**SMALL, **HEADS, **IDS, rope_parameters=rope, max_position_embeddings=STEADY)
    return model_from_config(config, RESIDUAL)


def tokens(count: int, rows: int = 1) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (rows, count), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def answer(model: torch.nn.Module, count: int, new: int, **kwargs: object) -> torch.Tensor:
    return model.generate(
        **tokens(count), do_sample=False, eos_token_id=None, pad_token_id=0, max_new_tokens=new, **kwargs
    )


def test_the_frequencies_matter() -> None:
    """Guards the tests below: a row's logits are others where a neighbour is longer than the limit."""
    model, inputs = phi3(), tokens(8)
    with torch.no_grad():
        near = model(**inputs, position_ids=torch.arange(8)[None]).logits
        far = model(**tokens(STEADY + 1)).logits[:, :8]
    assert (near - far).abs().max() > 0.1


@pytest.mark.parametrize("make", [phi3, dynamic])
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_an_answer_across_the_limit_is_refused(make, strength: float) -> None:
    """The last token of an answer is never read: one more fits. Without a cache each step reads all of it anew."""
    model = make()
    base = answer(model, 10, STEADY - 10 + 1, strength=strength)
    assert base.shape[1] == STEADY + 1
    for extra in ({}, {"cache_implementation": "static", "disable_compile": True}):
        with pytest.raises(ConfigError, match=f"beyond {STEADY} tokens"):
            answer(model, 10, STEADY - 10 + 2, strength=strength, **extra)
    longer = answer(model, 10, 12, strength=strength, use_cache=False)
    assert torch.equal(longer[:, : STEADY + 1], base)


def test_beyond_the_limit_from_the_start_it_is_the_bases_own_answer() -> None:
    model = phi3()
    found = answer(model, STEADY + 1, 8, strength=0.0)
    with pytest.raises(ConfigError, match="cache would be those of before"):
        answer(model, STEADY + 1, 8, prefill_chunk_size=8)
    model.row_router.remove()
    with model.peft_model.disable_adapter():
        assert torch.equal(answer(model.base, STEADY + 1, 8), found)


def test_without_a_cache_strength_0_is_the_bases_own_answer_across_the_limit() -> None:
    model = phi3()
    found = answer(model, 10, 14, strength=0.0, use_cache=False)
    model.row_router.remove()
    with model.peft_model.disable_adapter():
        assert torch.equal(answer(model.base, 10, 14), found)


def test_a_cache_of_before_the_limit_is_not_continued_beyond_it() -> None:
    model = phi3()
    so_far = answer(model, 8, 4, return_dict_in_generate=True)
    whole = torch.cat([so_far.sequences, tokens(8)["input_ids"]], dim=1)
    with pytest.raises(ConfigError, match="use_cache=False"):
        model.generate(whole, past_key_values=so_far.past_key_values, max_new_tokens=2)


@pytest.mark.parametrize("make", [phi3, dynamic])
def test_only_the_positions_before_the_limit_are_used(make, tokenizer) -> None:
    """Serving, training and the commands that answer prompts ask for `max_positions`."""
    model = make()
    assert model.max_positions == STEADY
    check_servable(model.base)
    with pytest.raises(DataError, match=f"more than the model's {STEADY} positions"):
        answer_prompts(model, tokenizer, ["wa wb", "wc " * 10], max_new_tokens=8)


def test_other_models_keep_all_their_positions() -> None:
    assert make_model("gpt2").max_positions == 128
    assert make_model("llama").max_positions == 2048

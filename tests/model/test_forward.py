"""The model's logits are the mixed policy, for every family; nothing leaks; the base stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import oracles
import pytest
import torch
import transformers
from conftest import (
    FAMILIES,
    HEADS,
    IDS,
    PAPER,
    RESIDUAL,
    SMALL,
    VOCABULARY,
    make_base,
    make_model,
    model_from_config,
    two_logits,
)
from peft import LoraConfig, LoraRuntimeConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from qadapter.errors import ConfigError, UnsupportedModelError
from qadapter.model import QAdapterForCausalLM, QConstants, Rows


def prompt(rows: int = 3, tokens: int = 9) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def oracle_logp(model: QAdapterForCausalLM, inputs: dict, strength: float = 1.0) -> torch.Tensor:
    z1, z0 = two_logits(model, **inputs)
    c = model.constants
    q = strength * oracles.q_function(c.parametrization, z1.double(), z0.double(), c.alpha_tilde)
    return oracles.policy_logp(q, z0.double(), c.alpha_0, c.alpha_tilde).float()


def visible(logp: torch.Tensor, inputs: dict) -> torch.Tensor:
    return logp[inputs["attention_mask"].bool()]


@pytest.mark.parametrize(
    "constants", [PAPER, RESIDUAL, QConstants("residual", 0.1, 0.4)], ids=["paper", "rho 1", "rho 1/4"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_mixed_policy(family: str, constants: QConstants) -> None:
    model, inputs = make_model(family, constants), prompt()
    with torch.no_grad():
        for strength in (0.0, 0.5, 1.0, 2.0):
            logp = model(**inputs, strength=strength).logits.log_softmax(-1)
            expected = oracle_logp(model, inputs, strength)
            torch.testing.assert_close(visible(logp, inputs), visible(expected, inputs), rtol=1e-4, atol=1e-4)


def test_the_adapter_matters() -> None:
    """Guards the tests above: base, adapter and mixture are far apart in these models."""
    model, inputs = make_model(), prompt()
    z1, z0 = two_logits(model, **inputs)
    assert (z1.log_softmax(-1) - z0.log_softmax(-1)).abs().mean() > 0.3
    with torch.no_grad():
        mixed = model(**inputs).logits.log_softmax(-1)
    assert (mixed - z1.log_softmax(-1)).abs().max() > 0.01


def test_dials_per_row() -> None:
    model, inputs = make_model(constants=RESIDUAL), prompt()
    dials = {"strength": torch.tensor([0.0, 0.7, 2.0]), "alpha_0": torch.tensor([0.3, 0.1, 0.2]), "alpha_tilde": 0.5}
    with torch.no_grad():
        together = model(**inputs, **dials).logits
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in inputs.items()}
            alone = model(
                **one, strength=float(dials["strength"][row]), alpha_0=float(dials["alpha_0"][row]), alpha_tilde=0.5
            ).logits
            torch.testing.assert_close(visible(together[row : row + 1], one), visible(alone, one), rtol=1e-4, atol=1e-4)


def test_one_pass_where_the_dial_allows_it() -> None:
    model, inputs = make_model(constants=RESIDUAL), prompt()
    rows: list[int] = []
    handle = model.base.base_model.register_forward_pre_hook(
        lambda _m, _a, kw: rows.append(len(kw["input_ids"])), with_kwargs=True
    )
    with torch.no_grad():
        for strength in (0.0, 0.5, 1.0):
            model(**inputs, strength=strength)
    handle.remove()
    assert rows == [3, 6, 3]


def test_a_fresh_adapter_with_rho_1_is_the_base() -> None:
    base, inputs = make_base(), prompt()
    with torch.no_grad():
        expected = base(**inputs).logits
        model = QAdapterForCausalLM(base, RESIDUAL).eval()
        for strength in (0.0, 0.5, 1.0, 3.0):
            torch.testing.assert_close(model(**inputs, strength=strength).logits, expected, rtol=1e-5, atol=1e-5)


def test_after_an_exception_the_right_policy_answers() -> None:
    model, inputs = make_model(), prompt()
    layer = model.base.base_model.layers[1]
    with torch.no_grad():
        expected = model(**inputs).logits
        handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        for rows in ({"strength": 0.0}, {"strength": 0.5}):
            with pytest.raises(RuntimeError, match="out of memory"):
                model(**inputs, **rows)
            assert model.row_router.rows is Rows.ADAPTER
        handle.remove()
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=0)


def test_remove_takes_the_routing_off_again() -> None:
    model = make_model()
    layers = list(model.row_router.layers)
    assert layers
    assert all("forward" in vars(layer) for layer in layers)
    model.row_router.remove()
    assert not any("forward" in vars(layer) or hasattr(layer, "row_router") for layer in layers)


@pytest.mark.parametrize(
    "options",
    [
        *({"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 3}}, {"alpha_pattern": {"q_proj": 3}}),
        *({"lora_bias": True}, {"exclude_modules": ["q_proj"]}, {"init_lora_weights": "gaussian"}),
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"runtime_config": LoraRuntimeConfig(ephemeral_gpu_offload=True)},
    ],
    ids=str,
)
def test_lora_variants(options: dict) -> None:
    common = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    lora = LoraConfig(**{**common, **options})
    model, inputs = make_model(lora=lora), prompt()
    with torch.no_grad():
        logp = model(**inputs).logits.log_softmax(-1)
    torch.testing.assert_close(visible(logp, inputs), visible(oracle_logp(model, inputs), inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "LM head gives the two policies different heads"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "bias='lora_only'"),
        ({"target_modules": ["q_proj"], "layer_replication": [(0, 2), (0, 2)]}, "layer_replication="),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3]}, "trainable_token_indices="),
        ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, "target_parameters="),
        ({"target_modules": ["q_proj"], "use_qalora": True}, "use_qalora=True"),
        ({"target_modules": ["q_proj"], "alora_invocation_tokens": [5]}, "alora_invocation_tokens="),
        # Rewrites the base's weights.
        (
            {"target_modules": ["q_proj"], "kasa_config": {}},
            r"kasa_config=[\s\S]*leave it at None; these can be used: r,",
        ),
        # Trained, and cannot be loaded.
        ({"target_modules": ["q_proj"], "velora_config": {}}, "velora_config="),
        ({"target_modules": ["q_proj"], "monteclora_config": {}}, "monteclora_config="),
    ],
    ids=lambda value: list(value)[-1] if isinstance(value, dict) else "",
)
def test_refused_adapters(options: dict, message: str) -> None:
    if not all(hasattr(LoraConfig(), name) for name in options):
        pytest.skip("this PEFT has no such option")
    with pytest.raises(UnsupportedModelError, match=message):
        QAdapterForCausalLM(make_base(), PAPER, LoraConfig(task_type="CAUSAL_LM", **options))


def wrapped(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return get_peft_model(base, LoraConfig(target_modules=["q_proj"]))


def injected(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    base.add_adapter(LoraConfig(target_modules=["q_proj"]), "sft")
    return base


def loaded_with_its_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    base.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder / "sft")
    return AutoModelForCausalLM.from_pretrained(folder / "sft")


def used(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return QAdapterForCausalLM(base).base


@pytest.mark.parametrize("carrying", [wrapped, injected, loaded_with_its_adapter, used])
def test_a_base_that_carries_an_adapter_is_refused(carrying: Callable, tmp_path: Path) -> None:
    """Its layers would belong to two routers, and the adapter's policy would pass for the base's."""
    base = carrying(make_base(), tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"already carries an adapter[\s\S]*load the base anew.*merge_and_"):
        QAdapterForCausalLM(base)
    if not isinstance(base, PeftModel):
        QAdapterForCausalLM(make_base()).save_pretrained(tmp_path / "adapter")
        with pytest.raises(UnsupportedModelError, match="already carries an adapter"):
            QAdapterForCausalLM.from_pretrained(tmp_path / "adapter", base)


def test_a_merged_adapter_is_the_bases_own(tmp_path: Path) -> None:
    QAdapterForCausalLM(wrapped(make_base(), tmp_path).merge_and_unload())
    QAdapterForCausalLM(make_model(constants=RESIDUAL).fold())


def test_a_fold_that_cannot_be_is_refused_and_leaves_the_model_as_it_was() -> None:
    lora = LoraConfig(lora_bias=True, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model, inputs = make_model("llama", RESIDUAL, lora), prompt()
    base, adapted = (model(**inputs, strength=strength).logits for strength in (0.0, 1.0))
    with pytest.raises(UnsupportedModelError, match=r"has biases \(lora_bias\) where the base has none"):
        model.fold()
    assert torch.equal(model(**inputs, strength=0.0).logits, base)
    assert torch.equal(model(**inputs, strength=1.0).logits, adapted)


def test_a_lora_that_could_not_be_decoded_is_refused_before_training() -> None:
    """OPT flattens what its feed-forward layers get: rows cannot be told apart there."""
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=128, **IDS,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"2-d input[\s\S]*leave this layer out of lora_target_modules"):
        model_from_config(config)


def test_a_lora_on_the_embedding() -> None:
    lora = LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    model, inputs = make_model(lora=lora), prompt()
    with torch.no_grad():
        logp = model(**inputs).logits.log_softmax(-1)
    torch.testing.assert_close(visible(logp, inputs), visible(oracle_logp(model, inputs), inputs), rtol=1e-4, atol=1e-4)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXTURES = {
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen2": ("Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3": ("Qwen3MoeConfig", EXPERTS),
    "olmoe": ("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "gpt-oss": ("GptOssConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama4": (
        "Llama4TextConfig",
        {"num_local_experts": 4, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 48},
    ),
    "gemma4": (
        "Gemma4TextConfig",
        {
            **{"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
            "hidden_size_per_layer_input": 0,
        },
    ),
    "deepseek": (
        "DeepseekV3Config",
        {
            **{
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "first_k_dense_replace": 1,
            },
            **{"n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16},
            **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
        },
    ),
}


def config_of(name: str, **options) -> transformers.PretrainedConfig:
    return getattr(transformers, name)(**{**SMALL, **HEADS, **IDS, **options})


@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_of_experts_are_refused(family: str) -> None:
    name, options = MIXTURES[family]
    with pytest.raises(UnsupportedModelError, match=r"ForCausalLM has mixture-of-experts layers"):
        model_from_config(config_of(name, **options))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Gemma4TextConfig", {"enable_moe_block": False, "hidden_size_per_layer_input": 0}),
        (
            "Gemma4TextConfig",
            {
                "enable_moe_block": False,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": SMALL["vocab_size"],
            },
        ),
        ("Qwen2MoeConfig", {**EXPERTS, "mlp_only_layers": [0, 1]}),
    ],
)
def test_the_dense_models_of_such_a_family_are_not(name: str, options: dict) -> None:
    model, inputs = model_from_config(config_of(name, **options)), prompt()
    with torch.no_grad():
        logp = model(**inputs).logits.log_softmax(-1)
    torch.testing.assert_close(visible(logp, inputs), visible(oracle_logp(model, inputs), inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        transformers.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128),
        transformers.XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48),
    ],
)
def test_models_without_a_cache_are_refused(config: transformers.PretrainedConfig) -> None:
    """They could be trained, or not even that, and never decoded."""
    with pytest.raises(UnsupportedModelError, match="LMHeadModel has no cache of keys and values"):
        model_from_config(config)


def test_an_unknown_factor_on_the_logits_is_found() -> None:
    base = make_base()
    head = base.get_output_embeddings()
    head.register_forward_hook(lambda _m, _a, out: 1.5 * out)
    with pytest.raises(UnsupportedModelError, match="not its LM head applied to its final hidden states"):
        QAdapterForCausalLM(base, PAPER)


def test_no_policy_left() -> None:
    model = make_model(constants=QConstants("logits", alpha_0=0.0))
    with pytest.raises(ConfigError, match="leaves no policy"):
        model(**prompt(), strength=0.0)


def test_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match="labels have no meaning"):
        make_model()(**prompt(), labels=prompt()["input_ids"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha_tilde": 0.0}, "alpha_tilde must be a number, finite and > 0; got 0.0"),
        ({"alpha_0": -1.0}, "alpha_0"),
        ({"gamma": 1.5}, "gamma must be a number, between 0 and 1; got 1.5"),
        ({"chi2_coef": float("nan")}, "chi2_coef"),
        ({"parametrization": "q"}, "parametrization must be one of"),
    ],
)
def test_constants_that_make_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QConstants(**values)

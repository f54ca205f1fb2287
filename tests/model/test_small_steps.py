"""Decoding with bound weights: the same policy as the plain layers, and no trace afterwards."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_batch, make_model
from peft import LoraConfig
from transformers import CompileConfig

from qadapter.errors import ConfigError
from qadapter.model import QConstants
from qadapter.model.lora import Rows
from qadapter.model.small_steps import small_steps


@pytest.mark.parametrize("rows", list(Rows))
@pytest.mark.parametrize("lora_bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 40])
def test_every_layer_gives_the_same(rows: Rows, lora_bias: bool, tokens: int) -> None:
    model = make_model("phi", lora=LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", lora_bias=lora_bias))
    layers = model.row_router.layers
    before = [layer.forward for layer in layers]
    with torch.no_grad(), model.row_router.route(rows):
        for layer in layers:
            x = torch.randn(4, tokens, layer.in_features)
            expected = layer(x)
            with small_steps(model.row_router):
                assert layer.forward is not before[layers.index(layer)]
                torch.testing.assert_close(layer(x), expected)
    assert [layer.forward for layer in layers] == before


def test_layers_that_it_cannot_bind_stay_as_they_are() -> None:
    model = make_model(lora=LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "v_proj"]))
    hooked = make_model()
    hooked.row_router.layers[0].base_layer.register_forward_hook(lambda *_: None)
    for some, layers in ((model, model.row_router.layers), (hooked, hooked.row_router.layers[:1])):
        before = [layer.forward for layer in layers]
        with small_steps(some.row_router):
            assert [layer.forward for layer in layers] == before


def test_an_exception_leaves_no_trace() -> None:
    model = make_model()
    before = [layer.forward for layer in model.row_router.layers]
    with pytest.raises(KeyError), small_steps(model.row_router):
        raise KeyError
    assert [layer.forward for layer in model.row_router.layers] == before


def test_what_was_trained_meanwhile_counts() -> None:
    """Weights are looked up anew by each generation."""
    model, prompt = make_model(constants=RESIDUAL), torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    model.generate(prompt, **options)
    with torch.no_grad():
        for layer in model.row_router.layers:
            layer.lora_B["default"].weight.mul_(-1)
    now = model.generate(prompt, **options).logits[0]
    torch.testing.assert_close(now, model(prompt).logits[:, -1].detach())


def test_fold_gives_the_trained_policy_as_a_plain_model() -> None:
    prompt = torch.tensor([[5, 6, 7, 8]])
    model = make_model(constants=RESIDUAL)
    with torch.no_grad():
        expected = model(prompt).logits
    folded = model.fold()
    assert type(folded).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in folded.named_modules())
    torch.testing.assert_close(folded(prompt).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("constants", [PAPER, QConstants("residual", alpha_0=0.1, alpha_tilde=0.4)])
def test_fold_refuses_a_policy_that_no_single_model_has(constants: QConstants) -> None:
    model = make_model(constants=constants)
    with pytest.raises(ConfigError, match="no single set of weights"):
        model.fold()
    model(torch.tensor([[5, 6]]))  # still works


def test_siblings_are_one_product_and_share_the_memory_of_the_weights() -> None:
    model = make_model(lora=LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_proj", "up_proj"]))
    attention = model.base.model.layers[0].self_attn
    weights = [attention.q_proj.base_layer.weight, attention.v_proj.base_layer.weight]
    values = [weight.detach().clone() for weight in weights]
    for _ in range(2):  # the second time they lie side by side already
        with torch.no_grad(), small_steps(model.row_router):
            product = attention.q_proj.forward.func
            assert product is attention.v_proj.forward.func
            assert type(attention.k_proj) is torch.nn.Linear
            assert [weight.data_ptr() for weight in weights] == [
                part.data_ptr() for part in product.weight.split([len(weight) for weight in weights])
            ]
    for weight, value in zip(weights, values, strict=True):
        assert torch.equal(weight, value)
    other = make_model(lora=LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_proj", "up_proj"]))
    prompt = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(prompt).logits, other(prompt).logits)


def test_siblings_that_read_other_tensors_are_not_mixed_up() -> None:
    model = make_model()
    attention = model.base.model.layers[0].self_attn
    one, other = torch.randn(2, 2, 1, 32)
    with torch.no_grad():
        expected = attention.q_proj(one), attention.k_proj(other), attention.v_proj(one), attention.q_proj(other)
        with small_steps(model.row_router):
            got = attention.q_proj(one), attention.k_proj(other), attention.v_proj(one), attention.q_proj(other)
            assert attention.v_proj(other).shape == expected[2].shape
            assert attention.q_proj.forward.func._read is None
            with model.row_router.route(Rows.BASE):
                torch.testing.assert_close(attention.q_proj(other), attention.q_proj.base_layer(other))
            attention.q_proj(one)
            with model.row_router.route(Rows.BASE):  # the same tensor again, for other rows
                torch.testing.assert_close(attention.q_proj(one), attention.q_proj.base_layer(one))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_is_kept_can_be_trained_on_and_follows_the_adapter() -> None:
    """Also where the first generation ran in inference mode."""
    model, prompt = make_model(constants=RESIDUAL), torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.inference_mode():
        model.generate(prompt, **options)
    kept = model.row_router.products
    model(**make_batch()).loss.backward()
    with torch.no_grad():
        for layer in model.row_router.layers:
            layer.lora_B["default"].weight += 0.1
    for dtype in (torch.float32, torch.float64):  # the second moves the weights
        model.to(dtype)
        now = model.generate(prompt, **options).logits[0]
        torch.testing.assert_close(now, model(prompt).logits[:, -1].detach().float(), rtol=1e-4, atol=1e-4)
        assert (model.row_router.products is kept) == (dtype == torch.float32)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, which torch compiles with")
def test_one_compiled_graph_serves_all_generations() -> None:
    """What transformers does by itself on CUDA with a static cache, made to happen here: no graph break, and no second
    compilation for the next generation."""
    torch._dynamo.reset()
    model, prompt = make_model(constants=RESIDUAL), torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "strength": 0.5}
    expected = model.generate(prompt, **options)
    compiling = CompileConfig(fullgraph=True, mode="default")
    compiling._compile_all_devices = True
    graphs = []
    for _ in range(2):
        found = model.generate(prompt, **options, cache_implementation="static", compile_config=compiling)
        assert torch.equal(found, expected)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[1] == graphs[0]

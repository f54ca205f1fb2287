"""A base in 8 or 4 bits: trained, saved, loaded and mixed like any other; what would be wrong on it is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, RESIDUAL, make_batch, randomize_adapter
from transformers import Qwen3ForCausalLM

from qadapter import QAdapterForCausalLM
from qadapter.errors import ArtifactError, ConfigError, MissingExtraError, UnsupportedModelError
from qadapter.model import load_base, quantization
from qadapter.model.fingerprint import base_fingerprint
from qadapter.model.lora import Rows

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra: quantized) is not installed")
BITS = pytest.mark.parametrize("load_in", ["8bit", "4bit"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"), seed=0)


def save_base(folder: Path, *, seed: int) -> Path:
    """A base whose layers have whole blocks of 64 inputs, as those of every real model."""
    config = copy.deepcopy(FAMILIES["qwen3"])
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(seed)
    base = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    base.save_pretrained(folder)
    return folder


def quantized(folder: Path, load_in: str) -> QAdapterForCausalLM:
    base = load_base(folder, dtype="float32", load_in=load_in, device_map="cpu")
    return randomize_adapter(QAdapterForCausalLM(base, RESIDUAL)).eval()


@BITS
def test_the_linear_layers_alone_are_quantized_and_frozen(folder: Path, load_in: str) -> None:
    model = quantized(folder, load_in)
    kind = bitsandbytes.nn.Linear8bitLt if load_in == "8bit" else bitsandbytes.nn.Linear4bit
    layers = [module for module in model.modules() if isinstance(module, kind)]
    assert len(layers) == 2 * 7
    assert type(model.base.get_output_embeddings()) is torch.nn.Linear
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert quantization.load_in_of(model.base) == load_in
    here, plain = base_fingerprint(model.base), base_fingerprint(load_base(folder, dtype="float32"))
    assert here.weights_sha256 is None
    assert here.unquantized_sha256 == plain.unquantized_sha256


@BITS
def test_gradients_are_those_of_the_dequantized_base(folder: Path, load_in: str) -> None:
    """The same loss and LoRA gradients as on a plain model that holds the quantized weights as numbers."""
    model, batch = quantized(folder, load_in), make_batch()
    plain = randomize_adapter(QAdapterForCausalLM(dequantized(folder, model.base), RESIDUAL)).eval()
    ours, theirs = (one(**batch) for one in (model, plain))
    # 8-bit products round the activations to 8 bits.
    tolerance = 1e-4 if load_in == "4bit" else 5e-2
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=tolerance, atol=tolerance)
    ours.loss.backward()
    theirs.loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = float(expected[name].grad.abs().max())
            torch.testing.assert_close(
                parameter.grad, expected[name].grad, rtol=0, atol=5 * tolerance * scale, msg=name
            )


@BITS
def test_a_pair_is_trained_alike_whatever_stands_beside_it(folder: Path, load_in: str) -> None:
    """Also one whose activations have outliers, as those of large models do."""
    model, batch = quantized(folder, load_in).train(), make_batch()
    with torch.no_grad():
        norm = model.base.base_model.layers[0].input_layernorm.weight
        norm[:8] *= 20
    together = model(**batch).pair_loss
    pairs = len(together)
    for pair in range(pairs):
        alone = model(**{name: value[[pair, pair + pairs]] for name, value in batch.items()}).pair_loss
        torch.testing.assert_close(alone[0], together[pair], rtol=1e-4, atol=1e-4)


@BITS
def test_the_loss_in_train_mode_is_that_of_the_dequantized_base(folder: Path, load_in: str) -> None:
    """Without the rounding of activations that 8-bit layers have in eval mode."""
    model, batch = quantized(folder, load_in).train(), make_batch()
    plain = randomize_adapter(QAdapterForCausalLM(dequantized(folder, model.base), RESIDUAL)).train()
    ours, theirs = (one(**batch) for one in (model, plain))
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-4, atol=1e-4)


def dequantized(folder: Path, base: torch.nn.Module) -> torch.nn.Module:
    """A plain model with the weights that the quantized layers multiply by."""
    plain = load_base(folder, dtype="float32")
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            layer = base.get_submodule(name)
            with torch.no_grad():
                module.weight.copy_(getattr(layer, "base_layer", layer)(torch.eye(module.in_features)).t())
    return plain


@BITS
def test_both_policies_in_one_pass_and_generate(folder: Path, load_in: str) -> None:
    model = quantized(folder, load_in)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        with model.row_router.route(Rows.ADAPTER):
            adapter = model.head.logits(model.base.base_model(input_ids=ids).last_hidden_state)
        with model.row_router.route(Rows.BASE):
            base = model.head.logits(model.base.base_model(input_ids=ids).last_hidden_state)
        mixed = model(input_ids=ids, strength=0.25).logits
    assert not torch.allclose(adapter, base, atol=0.1)
    difference = torch.log_softmax(mixed, -1) - torch.log_softmax(0.25 * adapter + 0.75 * base, -1)
    assert difference.abs().max() < (1e-3 if load_in == "4bit" else 0.2)
    assert model.generate(input_ids=ids, max_new_tokens=4, strength=0.5, do_sample=False).shape == (2, 8)


@BITS
def test_what_was_learned_loads_on_the_same_base_and_warns_on_another(
    folder: Path, load_in: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, batch = quantized(folder, load_in), make_batch()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = QAdapterForCausalLM.from_pretrained(tmp_path, dtype="float32", load_in=load_in, device_map="cpu")
        torch.testing.assert_close(again(**batch).loss, model(**batch).loss)
        assert "was trained on its base in" not in caplog.text
        QAdapterForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert f"was trained on its base in {load_in} and is loaded on it in full precision" in caplog.text


@BITS
def test_what_was_learned_on_a_quantized_base_is_refused_on_another(folder: Path, load_in: str, tmp_path: Path) -> None:
    quantized(folder, load_in).save_pretrained(tmp_path / "adapter")
    other = save_base(tmp_path / "other", seed=1)
    for where in ({"load_in": load_in, "device_map": "cpu"}, {}):
        with pytest.raises(ArtifactError, match="trained on another base: unquantized_sha256"):
            QAdapterForCausalLM.from_pretrained(tmp_path / "adapter", other, dtype="float32", **where)


@BITS
def test_folding_into_few_bits_is_refused(folder: Path, load_in: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"base is quantized[\s\S]*full precision"):
        quantized(folder, load_in).fold()


def test_an_unknown_word_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="load_in must be one of 8bit, 4bit, got '2bit'"):
        load_base(folder, load_in="2bit")


def test_it_is_an_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"-e '\.\[quantized\]'"):
        load_base(folder, load_in="4bit")

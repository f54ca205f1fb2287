"""Scaling the LoRA against weights merged by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_model

from qadapter.baselines import BASELINE_CONSTANTS, scaled_adapter
from qadapter.errors import ConfigError

IDS = torch.tensor([[1, 9, 10, 11, 12]])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_the_policy_is_that_of_merged_weights(scale: float) -> None:
    model = make_model(constants=BASELINE_CONSTANTS)
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for layer in merged.row_router.layers:
            product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            layer.base_layer.weight += scale * layer.scaling["default"] * product
        expected = merged(IDS, strength=0.0).logits
        unchanged, base = model(IDS).logits, model(IDS, strength=0.0).logits
        with scaled_adapter(model, scale) as scaled:
            torch.testing.assert_close(scaled(IDS).logits, expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(scaled(IDS, strength=0.0).logits, base)
            answer = scaled.generate(input_ids=IDS, max_new_tokens=5, do_sample=False)
        assert torch.equal(merged.generate(input_ids=IDS, max_new_tokens=5, do_sample=False, strength=0.0), answer)
        assert torch.equal(model(IDS).logits, unchanged)
    assert (expected - unchanged).abs().max() > 0.1


def test_it_restores_after_an_exception() -> None:
    model = make_model(constants=RESIDUAL)
    before = [dict(layer.scaling) for layer in model.row_router.layers]
    with pytest.raises(ZeroDivisionError), scaled_adapter(model, 0.3):
        raise ZeroDivisionError
    assert [dict(layer.scaling) for layer in model.row_router.layers] == before


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="finite and ≥ 0"), scaled_adapter(make_model(constants=RESIDUAL), -1.0):
        pass
    with pytest.raises(ConfigError, match="parametrization residual"), scaled_adapter(make_model(constants=PAPER), 0.5):
        pass

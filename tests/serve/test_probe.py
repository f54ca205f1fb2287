"""A model that does not read rows together as each alone is refused before it answers anybody."""

from __future__ import annotations

import pytest
import torch
import transformers
from conftest import FAMILIES, IDS, SMALL, VOCABULARY, make_model, model_from_config

from qadapter.errors import UnsupportedModelError
from qadapter.model import QAdapterForCausalLM
from qadapter.serve.engine import Engine, probe
from qadapter.serve.engine.probe import check_reads_together

LAYERS = SMALL["num_hidden_layers"]


def gpt_neo(kinds: list[str]) -> QAdapterForCausalLM:
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=128,
        attention_types=[[kinds, 2 // len(kinds)]], window_size=8, **IDS,
    )  # fmt: skip
    return model_from_config(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_are_served_pass(family: str, dtype: torch.dtype) -> None:
    check_reads_together(make_model(family).to(dtype), LAYERS)


def test_local_layers_are_refused_by_name_and_global_ones_served() -> None:
    """Whatever the window: one of real size is longer than what is tried."""
    with pytest.raises(UnsupportedModelError, match=r"GPTNeoForCausalLM cannot be served .* local layers cut their"):
        Engine(gpt_neo(["global", "local"]), None, [])
    Engine(gpt_neo(["global"]), None, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_states_beside_a_longer_row_are_found(dtype: torch.dtype) -> None:
    model = gpt_neo(["global", "local"]).to(dtype)
    said = r"GPTNeoForCausalLM \(model_type 'gpt_neo'\) .* beside a longer row it reads a row otherwise than alone"
    with pytest.raises(UnsupportedModelError, match=said):
        check_reads_together(model, LAYERS)


def test_a_family_that_fails_on_every_request_is_refused() -> None:
    """Its attention takes keys and values as views that those of several rows do not allow."""
    config = transformers.GPTNeoXJapaneseConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_multiple_size=2, max_position_embeddings=128, **IDS,
    )  # fmt: skip
    said = r"\(model_type 'gpt_neox_japanese'\) cannot be served .* reading two short rows together failed"
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        Engine(model_from_config(config), None, [])
    assert "qadapter generate" in str(caught.value)


@pytest.mark.parametrize("row", [0, 1])
def test_states_that_are_no_numbers_are_no_rounding(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read = probe._read_together

    def broken(model: QAdapterForCausalLM, layers: int) -> list[torch.Tensor]:
        return [states * (torch.nan if number == row else 1) for number, states in enumerate(read(model, layers))]

    monkeypatch.setattr(probe, "_read_together", broken)
    with pytest.raises(UnsupportedModelError, match=r"differ by .*nan"):
        check_reads_together(make_model(), LAYERS)


def test_no_memory_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(probe, "hidden_states", full)
    with pytest.raises(torch.OutOfMemoryError):
        Engine(make_model(), None, [])

"""Several adapters on one copy of the base's weights, each on rows of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_base, make_model, randomize_adapter
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from qadapter.errors import ArtifactError, UnsupportedModelError
from qadapter.model import QAdapterForCausalLM
from qadapter.model.artifact import add_artifact
from qadapter.model.lora import AdapterRows
from qadapter.model.small_steps import small_steps

PARTS = (AdapterRows("default", 0, 2), AdapterRows("second", 2, 3))
PROMPT = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16]])
OTHER = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], lora_bias=True)


def save(folder: Path, lora: LoraConfig | None = None, seed: int = 1, base_seed: int = 0) -> Path:
    constants = PAPER if lora is None else RESIDUAL
    model = randomize_adapter(QAdapterForCausalLM(make_base(seed=base_seed), constants, lora), seed)
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> QAdapterForCausalLM:
    return QAdapterForCausalLM.from_pretrained(folder, make_base())


@pytest.fixture
def two(tmp_path: Path) -> QAdapterForCausalLM:
    model = load(save(tmp_path / "one"))
    assert add_artifact(model, save(tmp_path / "two", OTHER, seed=2), "second") == RESIDUAL
    return model


@pytest.mark.parametrize("fused", [False, True])
def test_each_row_is_what_its_adapter_alone_gives(two: QAdapterForCausalLM, tmp_path: Path, fused: bool) -> None:
    """Rows of the first adapter, the second and the base in one batch; ranks and layers of the two differ."""
    with torch.no_grad(), two.row_router.route(PARTS):
        if fused:
            with small_steps(two.row_router):
                got = two.base.base_model(PROMPT).last_hidden_state
        else:
            got = two.base.base_model(PROMPT).last_hidden_state
    one, second = load(tmp_path / "one"), load(tmp_path / "two")
    with torch.no_grad():
        for model, rows in ((one, slice(0, 2)), (second, slice(2, 3)), (None, slice(3, 4))):
            expected = (make_base() if model is None else model.base).base_model(PROMPT[rows]).last_hidden_state
            torch.testing.assert_close(got[rows], expected, rtol=1e-4, atol=1e-4)


def test_the_models_own_policy_stays_as_it_was(two: QAdapterForCausalLM, tmp_path: Path) -> None:
    alone = load(tmp_path / "one")
    for strength in (0.0, 0.5, 1.0):
        options = {"max_new_tokens": 5, "do_sample": False, "strength": strength, "pad_token_id": 0}
        assert torch.equal(two.generate(PROMPT, **options), alone.generate(PROMPT, **options))
    assert not any(parameter.requires_grad for parameter in two.parameters())
    assert not two.training


def test_the_base_is_held_once(two: QAdapterForCausalLM) -> None:
    sizes = {parameter.data_ptr(): parameter.numel() for parameter in two.parameters()}
    base = sum(parameter.numel() for parameter in make_base().parameters())
    adapters = sum(p.numel() for name, p in two.named_parameters() if "lora_" in name)
    assert sum(sizes.values()) == base + adapters


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    model = load(save(tmp_path / "one"))
    with pytest.raises(ArtifactError, match="was trained on another base"):
        add_artifact(model, save(tmp_path / "two", base_seed=5), "second")


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    model, folder = load(save(tmp_path / "one")), save(tmp_path / "two")
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file)
    with pytest.raises(ArtifactError, match="1 tensors are missing"):
        add_artifact(model, folder, "second")
    shutil.rmtree(folder / "adapter")
    with pytest.raises(ArtifactError, match="is missing: the artifact is incomplete"):
        add_artifact(model, folder, "third")


@pytest.mark.parametrize(
    "lora",
    [
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
        LoraConfig(r=2, target_modules=["o_proj"], use_dora=True),
        LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
    ],
    ids=["dora", "dora where the first has no LoRA", "embedding"],
)
def test_layers_that_cannot_be_shared_are_refused(lora: LoraConfig, tmp_path: Path) -> None:
    first = save(tmp_path / "one", LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(UnsupportedModelError, match="takes the first adapter only"):
        add_artifact(load(first), save(tmp_path / "two", lora), "second")


def test_dora_alone_takes_parts_of_a_batch_too() -> None:
    model = make_model(lora=LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with torch.no_grad():
        with model.row_router.route((AdapterRows("default", 1, 3),)):
            got = model.base.base_model(PROMPT).last_hidden_state
        torch.testing.assert_close(got[1:3], model.base.base_model(PROMPT[1:3]).last_hidden_state)
        torch.testing.assert_close(got[[0, 3]], make_base().base_model(PROMPT[[0, 3]]).last_hidden_state)

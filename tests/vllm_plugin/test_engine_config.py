"""What vLLM is told when it starts: options that are refused, and versions that were not tested."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace as Bag
from typing import Any

import pytest

pytest.importorskip("vllm.config", reason="vLLM is not installed here; `make test-vllm` makes its environment")

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs

from qadapter.vllm.engine import models
from qadapter.vllm.engine.configs import CONFIGS
from qadapter.vllm.engine.engine_config import refused, version_note
from qadapter.vllm.engine.request_dial import RequestDial
from qadapter.vllm.families import FAMILIES


def engine(**changes: Any) -> Any:
    """The parts of vLLM's config that are looked at, as of an engine that is served."""
    config = Bag(
        lora_config=None,
        speculative_config=None,
        parallel_config=Bag(pipeline_parallel_size=1, use_ubatching=False),
        model_config=Bag(quantization=None, runner_type="generate"),
    )
    for path, value in changes.items():
        *parents, name = path.split("__")
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, value)
    return config


def test_a_plain_engine_is_served() -> None:
    assert refused(engine()) is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"lora_config": Bag()}, "--enable-lora"),
        ({"parallel_config__pipeline_parallel_size": 2}, "pipeline parallel"),
        ({"parallel_config__use_ubatching": True}, "micro-batches"),
        ({"model_config__quantization": "fp8"}, "quantization"),
        ({"speculative_config": Bag()}, "speculative"),
        ({"model_config__runner_type": "pooling"}, "text generation"),
    ],
)
def test_options_that_are_refused_name_a_way_out(changes: dict[str, Any], word: str) -> None:
    message, hint = refused(engine(**changes))  # type: ignore[misc]
    assert word in message
    assert hint


@pytest.mark.parametrize("options", [{"enable_lora": True}, {"quantization": "fp8"}])
def test_vllm_asks_before_it_starts(options: dict[str, Any], exported: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="is not served"):
        EngineArgs(model=str(exported("llama").folder), max_model_len=128, **options).create_engine_config()


def test_the_request_dial_is_added_and_the_folder_is_known(exported: Callable[[str], Any]) -> None:
    config = EngineArgs(model=str(exported("qwen3").folder), max_model_len=128).create_engine_config()
    assert config.model_config.logits_processors == ["qadapter.vllm.engine.request_dial:RequestDial"]
    assert not config.use_v2_model_runner


def test_other_models_are_left_alone(exported: Callable[[str], Any]) -> None:
    base = exported("llama").adapter.parent / "base"
    config = EngineArgs(model=str(base), max_model_len=128, enable_lora=True).create_engine_config()
    assert not config.model_config.logits_processors


@pytest.mark.parametrize(("version", "told"), [("0.32.0", False), ("0.32.4", False), ("0.33.0", True), ("1.0", True)])
def test_a_version_that_was_not_tested_is_told_with_the_tested_ones(version: str, told: bool) -> None:
    note = version_note(version)
    assert (note is not None) == told
    assert note is None or ("0.32" in note and version in note)


def test_a_request_is_checked_when_it_is_admitted() -> None:
    RequestDial.validate_params(SamplingParams(extra_args={"strength": 0.5}))
    with pytest.raises(ValueError, match="strength"):
        RequestDial.validate_params(SamplingParams(extra_args={"strength": -1}))


def test_names_agree() -> None:
    """config.json names them, the registry maps them, the classes carry them."""
    assert [config.model_type for config in CONFIGS] == [family.model_type for family in FAMILIES.values()]
    assert all(issubclass(getattr(models, family.served), models.TwoPolicyModel) for family in FAMILIES.values())

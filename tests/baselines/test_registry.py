"""Names and hyperparameters of the methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_base
from transformers import AutoModelForSequenceClassification

from qadapter.baselines import METHODS, CommonArguments, TrainingJob, checked_hyperparameters, run_job
from qadapter.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dop", {}, r"unknown method 'dop' \(did you mean 'dpo'\?\)"),
        ("dpo", {"betta": 0.1}, r"dpo has no hyperparameter 'betta' \(did you mean 'beta'\?\)"),
        ("dpo", {"beta": "large"}, "beta of dpo must be of type float, got 'large'"),
        ("dpo", {"beta": True}, "beta of dpo must be of type float"),
        ("rloo", {"num_generations": 2.5}, "num_generations of rloo must be of type int"),
        ("qadapter", {"preset": "papper"}, r"preset of qadapter must be one of .* \(did you mean 'paper'\?\)"),
    ],
)
def test_wrong_names_and_values(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_hyperparameters(name, given)


def test_defaults_are_filled_in() -> None:
    assert checked_hyperparameters("dpo", {"beta": 1})["beta"] == 1.0
    assert (
        checked_hyperparameters("dpo", {})["learning_rate"] == METHODS["dpo"].hyperparameters["learning_rate"].default
    )
    assert checked_hyperparameters("qadapter", {})["chi2_coef"] is None, "the preset says it"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "train_file is required"),
        ({"train_file": "x", "dtype": "float16"}, "dtype must be one of"),
        ({"train_file": "x", "train_pairs": 0}, "train_pairs must be at least 1"),
        ({"train_file": "x", "num_train_epochs": 0.0}, "num_train_epochs must be finite and above 0"),
    ],
)
def test_wrong_common_arguments(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CommonArguments(**fields)


def test_what_a_method_cannot_do(make_job: Callable[..., TrainingJob]) -> None:
    with pytest.raises(ConfigError, match="per_device_train_batch_size must be at least 2"):
        run_job(make_job("kto", per_device_train_batch_size=1))
    with pytest.raises(DataError, match="KTO needs at least 2 pairs"):
        run_job(make_job("kto", train_pairs=1))
    with pytest.raises(ConfigError, match="one step takes 12"):
        run_job(make_job("rloo", per_device_train_batch_size=12))


def test_what_is_no_reward_model_for_rloo(make_job: Callable[..., TrainingJob], tokenizer, tmp_path: Path) -> None:
    """TRL would maximize the first label, or a head that was drawn at random."""
    folder = tmp_path / "rewards"
    net = AutoModelForSequenceClassification.from_config(make_base().config, dtype=torch.float32)
    assert net.config.num_labels == 2
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="has 2 labels"):
        run_job(make_job("rloo", {"reward_model": str(folder)}))
    base = make_base()
    base.config.num_labels = 1
    base.save_pretrained(folder)
    with pytest.raises(ConfigError, match="lacks score"):
        run_job(make_job("rloo", {"reward_model": str(folder), "num_generations": 2, "max_completion_length": 3}))
    with pytest.raises(ConfigError, match="temperature of rloo must be above 0"):
        run_job(make_job("rloo", {"temperature": 0}))


def test_what_is_left_out_is_among_the_facts(make_job: Callable[..., TrainingJob]) -> None:
    assert run_job(make_job("sft")).warnings == []
    (cut,) = run_job(make_job("sft", max_length=14)).warnings
    assert "responses are longer than max_length=14" in cut

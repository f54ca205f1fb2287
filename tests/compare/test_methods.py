"""The lines and sweeps of a config file."""

from __future__ import annotations

from typing import Any

import pytest

from qadapter.baselines import CommonArguments
from qadapter.compare import CompareArguments
from qadapter.compare.methods import lines_of, reference_line
from qadapter.errors import ConfigError


def arguments(methods: dict[str, Any], **fields: Any) -> CompareArguments:
    return CompareArguments(eval_file="x", output_dir="y", methods=methods, **fields)


def both(methods: dict[str, Any], **fields: Any) -> tuple[CompareArguments, CommonArguments]:
    return arguments(methods, **fields), CommonArguments(train_file="x", per_device_train_batch_size=1)


def test_a_sweep_is_every_combination() -> None:
    (line,) = lines_of(*both({"DPO": {"method": "dpo", "beta": [0.1, 0.3], "learning_rate": [1e-4, 1e-3]}}))
    assert line.candidates == (
        {"beta": 0.1, "learning_rate": 1e-4},
        {"beta": 0.1, "learning_rate": 1e-3},
        {"beta": 0.3, "learning_rate": 1e-4},
        {"beta": 0.3, "learning_rate": 1e-3},
    )
    assert line.swept == ("beta", "learning_rate")


def test_several_shares_of_noise_are_as_many_lines() -> None:
    methods = {"ours": {"method": "qadapter"}, "DPO": {"method": "dpo", "label_noise": 0.3, "interpolation": "weights"}}
    lines = lines_of(*both(methods, label_noise=[0.0, 0.2]))
    assert [(line.label, line.label_noise, line.interpolation) for line in lines] == [
        ("ours, 0% flipped", 0.0, "logits"),
        ("ours, 20% flipped", 0.2, "logits"),
        ("DPO", 0.3, "weights"),
    ]


def test_the_reference() -> None:
    methods = {"ours": {"method": "qadapter"}, "IPO": {"method": "ipo"}, "DPO": {"method": "dpo"}}
    lines = lines_of(*both(methods))
    assert reference_line(arguments(methods), lines).label == "DPO"
    assert reference_line(arguments(methods, reference="IPO"), lines).label == "IPO"
    assert reference_line(arguments(methods), lines[:2]).label == "ours"
    with pytest.raises(ConfigError, match=r"no line has the label 'DPPO' \(did you mean 'DPO'\?\)"):
        reference_line(arguments(methods, reference="DPPO"), lines)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("dpo", "must be a mapping with the key `method`"),
        ({"method": "dop"}, r"methods: label: unknown method 'dop' \(did you mean 'dpo'\?\)"),
        ({"method": "reward"}, "reward makes a reward model, no policy"),
        ({"method": "dpo", "learning_rte": 1}, r"no hyperparameter 'learning_rte' \(did you mean 'learning_rate'\?\)"),
        ({"method": "dpo", "labelnoise": 1}, r"no hyperparameter 'labelnoise' \(did you mean 'label_noise'\?\)"),
        ({"method": "dpo", "num_train_epochs": 0}, "num_train_epochs of dpo must be finite and above 0, got 0"),
        ({"method": "sft", "num_train_epochs": [1, 0]}, "num_train_epochs of sft must be finite and above 0, got 0"),
        ({"method": "dpo", "learning_rate": float("inf")}, "learning_rate of dpo must be finite, got inf"),
        ({"method": "dpo", "beta": []}, "a sweep needs different values"),
        ({"method": "dpo", "beta": [0.1, 0.1]}, "a sweep needs different values"),
        ({"method": "dpo", "beta": [0.1, "x"]}, "beta of dpo must be of type float"),
        ({"method": "dpo", "interpolation": "weight"}, "interpolation must be one of logits, weights"),
        ({"method": "dpo", "label_noise": "much"}, "label_noise must be a number"),
        ({"method": "dpo", "label_noise": 20}, "between 0 and 1"),
        ({"method": "qadapter", "alpha_tilde": 0.0}, "alpha_tilde must be a number"),
        ({"method": "kto"}, "per_device_train_batch_size must be at least 2"),
        ({"method": "rloo", "num_generations": 1}, "num_generations of rloo must be at least 2, got 1"),
        ({"method": "replay", "replay_prompts": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"method": "dpo", "learning_rate": -1e-3}, "learning_rate of dpo must be at least 0, got -0.001"),
        ({"method": "qadapter", "preset": "paper", "interpolation": "weights"}, "interpolation of weights needs"),
    ],
    ids=str,
)
def test_wrong_entries(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lines_of(*both({"label": entry}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strengths": [0.5]}, "strengths must hold 1"),
        ({"strengths": [1.0, -1.0]}, "at least 0"),
        ({"strengths": [1.0, 0.5, 0.5]}, "strengths names a value twice"),
        ({"seeds": []}, "seeds must hold"),
        ({"frontier_x": "kl"}, "frontier_x must be one of"),
        ({"x_limit": 0.0}, "x_limit must be finite and above 0"),
        ({"x_limit": float("inf")}, "x_limit must be finite and above 0, got inf"),
        ({"seeds": [0, -1]}, "seeds must be whole numbers from 0 to 4294967295, got -1"),
        ({"seeds": [2**32]}, "seeds must be whole numbers"),
        ({"methods": {}}, "methods is required"),
        ({"eval_file": ""}, "eval_file is required"),
    ],
    ids=str,
)
def test_wrong_arguments(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompareArguments(**{"eval_file": "x", "methods": {"a": {"method": "dpo"}}, **fields})

"""What makes a job another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qadapter.compare.fingerprint import evaluation_inputs
from qadapter.evaluate import EvaluationArguments
from qadapter.evaluate.judges import JudgeArguments


def inputs(reward_model: str) -> dict[str, object]:
    judging = JudgeArguments(reward_model=[reward_model])
    return evaluation_inputs(EvaluationArguments(), judging, with_benchmarks=False)


def test_a_reward_model_is_its_weights_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, weights in (("one", b"12"), ("two", b"12")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    before = inputs("one")
    assert inputs("one") == before
    assert inputs("two") != before, "its scores stand under its name"
    (tmp_path / "one" / "model.safetensors").write_bytes(b"34")
    assert inputs("one") != before, "other weights of the same size"
    assert inputs("org/of-the-hub") == inputs("org/of-the-hub") != before

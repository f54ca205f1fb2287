"""What makes a job another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qadapter.compare.fingerprint import benchmark_inputs, evaluation_inputs
from qadapter.evaluate import EvaluationArguments
from qadapter.evaluate.judges import JudgeArguments


def inputs(reward_model: str) -> dict[str, object]:
    judging = JudgeArguments(reward_model=[reward_model])
    return evaluation_inputs(EvaluationArguments(), judging, with_benchmarks=False)


def test_a_task_file_is_its_content_and_its_name(tmp_path: Path) -> None:
    def of(name: str) -> dict[str, object]:
        return benchmark_inputs(EvaluationArguments(tasks=[str(tmp_path / name), "hellaswag"]))

    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "one.jsonl").write_text("{}\n")
    assert of("moved/one.jsonl") == of("one.jsonl")
    assert of("two.jsonl") != of("one.jsonl"), "its scores stand under its name"
    (tmp_path / "one.jsonl").write_text('{"a": 1}\n')
    assert of("moved/one.jsonl") != of("one.jsonl")


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

"""What makes a job another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from qadapter.baselines import CommonArguments, TrainingJob
from qadapter.baselines.content import content_of_base
from qadapter.compare.fingerprint import benchmark_inputs, evaluation_inputs, training_inputs
from qadapter.evaluate import EvaluationArguments, EvaluationInputs, local_tasks
from qadapter.evaluate.judges import JudgeArguments


def inputs(reward_model: str) -> dict[str, object]:
    judging = JudgeArguments(reward_model=[reward_model])
    return evaluation_inputs(EvaluationArguments(), judging, with_benchmarks=False)


ROW = {"ctx": "a man sits. he", "ctx_a": "a man sits.", "ctx_b": "he", "endings": ["runs.", "stands."], "label": 1}


def of_task(path: Path) -> dict[str, object]:
    return benchmark_inputs(EvaluationArguments(tasks=[str(path), "hellaswag"]))


def judged_by_a_server(**judging: object) -> dict[str, object]:
    arguments = JudgeArguments(**{"judge_endpoint": "http://localhost:8000/v1", "judge_model": "judge", **judging})
    return evaluation_inputs(EvaluationArguments(), arguments, with_benchmarks=False)


def write(path: Path, row: dict[str, object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_task_file_is_what_it_asks_and_its_name(tmp_path: Path) -> None:
    before = of_task(write(tmp_path / "one.jsonl", ROW))
    assert of_task(write(tmp_path / "moved" / "one.jsonl", {"source": "x", **ROW})) == before, "asks the same"
    assert of_task(write(tmp_path / "two.jsonl", ROW)) != before, "its scores stand under its name"
    assert of_task(write(tmp_path / "one.jsonl", {**ROW, "label": 0})) != before


def test_a_task_file_that_is_asked_otherwise_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to other questions are no pairs with those that a comparison has finished."""
    file = write(tmp_path / "one.jsonl", ROW)
    before = of_task(file)
    (schema,) = (schema for schema in local_tasks.SCHEMAS if schema.name == "hellaswag")
    as_once = schema._replace(convert=lambda row: schema.convert({**row, "ctx_a": None}))
    as_letters = schema._replace(config={**schema.config, "doc_to_choice": "{{letters}}"})
    for other in (as_once, as_letters):
        monkeypatch.setattr(local_tasks, "SCHEMAS", (other,))
        assert of_task(file) != before
    monkeypatch.undo()
    assert of_task(file) == before


def test_a_task_of_lm_eval_is_its_name_whatever_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = benchmark_inputs(EvaluationArguments(tasks=["hellaswag"]))
    write(tmp_path / "hellaswag" / "one.jsonl", ROW)
    assert benchmark_inputs(EvaluationArguments(tasks=["hellaswag"])) == before


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


def test_another_file_of_judgments_tells_a_changed_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QADAPTER_CACHE", str(tmp_path / "cache"))
    default = judged_by_a_server()
    assert "judge_cache" not in default, "what was finished with it before it counted is finished"
    assert judged_by_a_server(judge_cache=str(tmp_path / "cache" / "judgments.jsonl")) == default
    named = judged_by_a_server(judge_cache="a.jsonl")
    assert named == judged_by_a_server(judge_cache=f"{tmp_path}/elsewhere/../a.jsonl")
    assert named != default
    assert named != judged_by_a_server(judge_cache="b.jsonl")


def test_without_a_server_its_judgments_do_not_count() -> None:
    no_server = {"judge_endpoint": None, "judge_model": None}
    assert judged_by_a_server(**no_server, judge_cache="a.jsonl") == judged_by_a_server(**no_server)


def test_what_the_chat_template_is_told_counts_and_nothing_told_is_as_before() -> None:
    def of_training(common: CommonArguments) -> dict[str, object]:
        return training_inputs(TrainingJob("dpo", {}, common, "", 0), {})

    plain, told = (
        CommonArguments(train_file="pairs.jsonl", dtype="float32", chat_template_kwargs=variables)
        for variables in ({}, {"enable_thinking": False})
    )
    assert "chat_template_kwargs" not in of_training(plain)["common"], "finished jobs of earlier versions stay finished"
    assert of_training(told) != of_training(plain)
    assert content_of_base(plain) == [plain.model, None, "float32"]
    assert content_of_base(told) != content_of_base(plain)


def test_a_moved_server_judges_the_same() -> None:
    here, there = (judged_by_a_server(judge_endpoint=f"http://localhost:{port}/v1") for port in (8000, 8001))
    assert here == there
    assert judged_by_a_server(judge_model="other") != here
    assert judged_by_a_server(judge_endpoint=None, judge_model=None) != here


def test_what_the_hub_gave_is_its_content(tmp_path: Path) -> None:
    """A set on the hub changes under its name; a file is hashed as it lies."""

    def pair(word: str) -> Dataset:
        return Dataset.from_list([{"prompt": "hello", "chosen": word, "rejected": "bad"}])

    read = EvaluationInputs(pair("good"), ["hello"], [{"prompt": "a", "kind": "b"}], ["a document"], [])
    others = {
        "preference_file": read._replace(pairs=pair("better")),
        "prompts_file": read._replace(prompts=["hi"]),
        "neutral_file": read._replace(neutral=[]),
        "text_file": read._replace(documents=["another"]),
    }
    for field, other in others.items():
        of_hub, of_file = (EvaluationArguments(**{field: name}) for name in ("me/set", __file__))

        def found(arguments: EvaluationArguments, inputs: EvaluationInputs) -> list[dict[str, object]]:
            judging = JudgeArguments()
            both = [evaluation_inputs(arguments, judging, with_benchmarks=b, read=inputs) for b in (False, True)]
            return [*both, benchmark_inputs(arguments, read=inputs)]

        assert found(of_file, other) == found(of_file, read)
        changed = [a != b for a, b in zip(found(of_hub, other), found(of_hub, read), strict=True)]
        assert changed == ([False, True, True] if field == "text_file" else [True, True, False])

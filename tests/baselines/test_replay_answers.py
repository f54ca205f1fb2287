"""The base's own answers: greedy or sampled, from given prompts, generated once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qadapter.baselines import TrainingJob, base_policy, checked_hyperparameters
from qadapter.baselines.method import Run
from qadapter.baselines.replay_answers import ReplayAnswer, replay_answers
from qadapter.baselines.training_pairs import training_pairs
from qadapter.data import NoRoomError, encode_prompt
from qadapter.errors import DataError
from qadapter.generate import answer_prompts


@pytest.fixture
def answers_of(make_job: Callable[..., TrainingJob], tokenizer, tmp_path: Path) -> Callable[..., list[ReplayAnswer]]:
    def answer(count: int = 10, seed: int = 0, max_length: int = 32, **own: Any) -> list[ReplayAnswer]:
        common = make_job("replay", max_length=max_length).common
        given = {"replay_max_new_tokens": 6, **own}
        pairs = training_pairs(common, label_noise=0.0, seed=seed)
        hyperparameters = checked_hyperparameters("replay", given)
        return replay_answers(Run(pairs, tokenizer, common, hyperparameters, seed, tmp_path / "run", tmp_path), count)[
            0
        ]

    return answer


def test_greedy_answers_are_the_bases(answers_of: Callable, make_job: Callable, tokenizer) -> None:
    common = make_job("replay").common
    prompts = training_pairs(common, label_noise=0.0, seed=0)["prompt"]
    expected = answer_prompts(base_policy(common), tokenizer, prompts, max_new_tokens=6)
    found = answers_of()
    assert [answer.response_ids for answer in found] == [answer.token_ids for answer in expected]
    assert [answer.prompt_ids for answer in found] == [encode_prompt(prompt, tokenizer) for prompt in prompts]


def test_they_are_generated_once(answers_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answers_of()
    (file,) = tmp_path.glob("replay-*.json")
    monkeypatch.setattr("qadapter.baselines.replay_answers.answer_prompts", None)
    assert answers_of() == first
    assert answers_of(seed=5) == first, "greedy answers have no seed"
    with pytest.raises(TypeError):
        answers_of(replay_temperature=0.5)
    assert list(tmp_path.glob("replay-*")) == [file], "nothing half-written is left"


def test_sampled_answers_have_a_seed(answers_of: Callable, tmp_path: Path) -> None:
    first = answers_of(replay_temperature=1.5)
    for file in tmp_path.glob("replay-*"):
        file.unlink()
    assert answers_of(replay_temperature=1.5) == first
    assert answers_of(replay_temperature=1.5, seed=1) != first


def test_given_prompts(answers_of: Callable, tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "neutral.jsonl"
    path.write_text('{"prompt": "wa wb"}\n{"prompt": "wc wd we", "kind": "document"}\n')
    found = answers_of(replay_prompts=str(path), max_length=12, count=3)
    assert found[0].prompt_ids == encode_prompt([{"role": "user", "content": "wa wb"}], tokenizer)
    assert found[1].prompt_ids == encode_prompt("wc wd we", tokenizer)
    assert found[2] == found[0], "in turn"
    assert all(len(answer.prompt_ids) + len(answer.response_ids) <= 12 for answer in found)
    assert "answers of the base had not ended" in caplog.text
    caplog.clear()
    answers_of(replay_prompts=str(path), max_length=12, count=3)
    assert "answers of the base had not ended" in caplog.text, "also of answers that an earlier run generated"
    with pytest.raises(NoRoomError, match="max_length is 4"):
        answers_of(replay_prompts=str(path), max_length=4)
    path.write_text('{"text": "wa"}\n')
    with pytest.raises(DataError, match="missing or empty field 'prompt'"):
        answers_of(replay_prompts=str(path))


def test_equal_prompts_are_answered_once_where_answers_are_greedy(
    answers_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def listen(model: Any, tokenizer: Any, prompts: list[Any], **kwargs: Any) -> Any:
        asked.append(len(prompts))
        return answer_prompts(model, tokenizer, prompts, **kwargs)

    monkeypatch.setattr("qadapter.baselines.replay_answers.answer_prompts", listen)
    path = tmp_path / "neutral.jsonl"
    path.write_text('{"prompt": "wa wb"}\n{"prompt": "wc"}\n{"prompt": "wa wb"}\n')
    first, second, third = answers_of(replay_prompts=str(path), count=3)
    assert (third, asked) == (first, [2])
    assert second != first
    answers_of(replay_prompts=str(path), count=3, replay_temperature=1.5)
    assert asked == [2, 3]

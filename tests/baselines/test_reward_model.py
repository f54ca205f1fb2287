"""The reward model: learned, merged, saved, and read by the judge and by RLOO; the telemetry of TRL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from qadapter.baselines import TrainingJob, policy_gradient, reward_function, reward_model, run_job
from qadapter.baselines.trl_run import train_rows, trl_allowed
from qadapter.errors import DataError
from qadapter.evaluate.judges.reward_model import load_reward_model
from qadapter.generate import Answer, as_messages
from qadapter.model.reward_tokens import turn_tail


def test_the_judge_reads_what_was_trained(make_job: Callable[..., TrainingJob], tokenizer) -> None:
    job = make_job("reward", {"learning_rate": 0.02, "num_train_epochs": 6})
    facts = run_job(job)
    assert facts.pairs == 60
    assert tokenizer.decode(turn_tail(tokenizer)).strip() == "", "white space after the end of a turn"
    rows = [json.loads(line) for line in Path(job.common.train_file).read_text().splitlines()]
    judge = load_reward_model(job.output_dir)
    rewards = {
        side: judge.judge([row["prompt"] for row in rows], [Answer(row[side][0]["content"], [], True) for row in rows])
        for side in ("chosen", "rejected")
    }
    wins = [c.score > r.score for c, r in zip(rewards["chosen"], rewards["rejected"], strict=True)]
    assert sum(wins) >= 9


def test_rloo_keeps_its_reward_model(make_job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    quick = {"num_generations": 2, "max_completion_length": 3}
    first = run_job(make_job("rloo", quick, output_dir=str(tmp_path / "a")))
    (folder,) = tmp_path.glob("reward-*")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    second = run_job(make_job("rloo", {**quick, "beta": 0.5}, output_dir=str(tmp_path / "b")))
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert second.seconds["reward model"] == first.seconds["reward model"] > 0, "its cost is counted all the same"
    run_job(make_job("rloo", {**quick, "reward_model": str(folder)}, output_dir=str(tmp_path / "c")))
    assert len(list(tmp_path.glob("reward-*"))) == 1


@pytest.fixture
def string_rows(make_job: Callable[..., TrainingJob], tmp_path: Path) -> Path:
    """The pairs as strings: the response begins with a space."""
    rows = []
    for line in Path(make_job("sft").common.train_file).read_text().splitlines():
        row = json.loads(line)
        sides = {side: " " + row[side][0]["content"] for side in ("chosen", "rejected")}
        rows.append({"prompt": row["prompt"][0]["content"], **sides})
    path = tmp_path / "strings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def trained_rows(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of tokens that reward models are trained on."""
    seen: list[list[int]] = []

    def spy(run, trainer_class, config, batches, *args, **kwargs):
        seen.extend(row[f"{side}_ids"] for batch in batches for row in batch for side in ("chosen", "rejected"))
        return train_rows(run, trainer_class, config, batches, *args, **kwargs)

    monkeypatch.setattr(reward_model, "train_rows", spy)
    return seen


@pytest.mark.parametrize("strings", [True, False])
def test_rloo_scores_what_its_reward_model_was_trained_on(
    strings: bool, make_job: Callable[..., TrainingJob], string_rows: Path, trained_rows: list[list[int]],
    tokenizer, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The prompt's and the policy's own tokens; the end of a turn only where the answer ended by itself."""
    scored: list[list[int]] = []
    answered: list[list[int]] = []

    def spy(model, rows, *, batch_size):
        scored.extend(rows)
        return [float(len(row)) for row in rows]

    class Spied(reward_function.RewardFunction):
        def __call__(self, prompts, completions, completion_ids, **kwargs):
            completion_ids = [[9, 10, 11], *([9, 2] for _ in completion_ids[1:])]
            answered.extend(completion_ids)
            completions = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
            if not strings:
                completions = [[{"role": "assistant", "content": text}] for text in completions]
            return super().__call__(prompts, completions, completion_ids, **kwargs)

    monkeypatch.setattr(reward_function, "rewards_of", spy)
    monkeypatch.setattr(policy_gradient, "RewardFunction", Spied)
    files = {"train_file": str(string_rows)} if strings else {}
    run_job(make_job("rloo", {"num_generations": 2, "max_completion_length": 3}, **files))
    begin = [1] if strings else [1, 4]
    end = [2] if strings else [5, *turn_tail(tokenizer)]
    assert all(row[: len(begin)] == begin for row in [*trained_rows, *scored])
    assert all(row[-len(end) :] == end for row in trained_rows)
    for row, answer in zip(scored, answered, strict=True):
        finished = answer[-1] == 2
        tail = [9, *end] if finished else answer
        assert row[-len(tail) :] == tail
        assert any(trained[: len(row) - len(tail)] == row[: -len(tail)] for trained in trained_rows), "its prompt"
        assert finished or end[0] not in row[-3:]


@pytest.mark.parametrize("strings", [True, False])
def test_the_judge_gives_a_reward_model_of_ours_to_read_what_it_was_trained_on(
    strings: bool, make_job: Callable[..., TrainingJob], string_rows: Path, trained_rows: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = make_job("reward", **({"train_file": str(string_rows)} if strings else {}))
    run_job(job)
    if strings:  # it needs none
        settings = Path(job.output_dir) / "chat_template.jinja"
        settings.unlink()
    judge, read = load_reward_model(job.output_dir), []
    monkeypatch.setattr(judge, "_rewards", lambda rows: read.extend(rows) or [0.0] * len(rows))
    rows = [json.loads(line) for line in Path(job.common.train_file).read_text().splitlines()]
    prompts = [as_messages(row["prompt"]) for row in rows for _ in range(2)]
    texts = [row[side] if strings else row[side][0]["content"] for row in rows for side in ("chosen", "rejected")]
    judge.judge(prompts, [Answer(text.strip(), [], True) for text in texts])
    assert sorted(read) == sorted(trained_rows)
    read.clear()
    cut = [Answer(text.strip(), [], False) for text in texts]
    judge.judge(prompts, cut)
    assert not any(row[-1] == trained_rows[0][-1] for row in read), "the end of a turn that did not end"
    several = [*prompts[0], {"role": "assistant", "content": "va"}, *prompts[0]]
    (verdict,) = judge.judge([several], cut[:1])
    assert (verdict.score is None) == strings
    assert not strings or "was trained on strings" in verdict.note


def test_rloo_needs_room_for_its_answers(
    make_job: Callable[..., TrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_gradient, "train_reward_model", lambda run: pytest.fail("it has begun"))
    base = tmp_path / "base"
    shutil.copytree(make_job("rloo").common.model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
    with pytest.raises(DataError, match="with an answer of up to 38 that is more than the model's 40") as caught:
        run_job(make_job("rloo", {"max_completion_length": 38}, model=str(base)))
    assert "(max_completion_length)" in str(caught.value)


def test_telemetry_is_off_while_trl_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    inside = []

    def use() -> None:
        with trl_allowed():
            inside.append(huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert inside == [True]
    assert not huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY

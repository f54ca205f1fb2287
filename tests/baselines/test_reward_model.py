"""The reward model: learned, merged, saved, and read by the judge and by RLOO; the telemetry of TRL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from qadapter.baselines import TrainingJob, run_job
from qadapter.baselines.reward_model import turn_tail
from qadapter.baselines.trl_run import trl_allowed
from qadapter.evaluate.judges.reward_model import load_reward_model
from qadapter.generate import Answer


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

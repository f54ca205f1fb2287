"""What the methods are given: the same pairs, tokens and batches as our own trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from qadapter.baselines import TrainingJob
from qadapter.baselines.method import Run
from qadapter.baselines.own import qadapter_arguments
from qadapter.baselines.preference import kto_rows, orpo_row
from qadapter.baselines.registry import checked_hyperparameters
from qadapter.baselines.supervised import sft_row
from qadapter.baselines.training_pairs import flipped, tokenized_batches, training_pairs
from qadapter.errors import ConfigError, DataError
from qadapter.train import QAdapterTrainer

PAIRS = [{"prompt": "p", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(20)]


def swapped(share: float, seed: int = 0) -> set[int]:
    return {i for i, row in enumerate(flipped(Dataset.from_list(PAIRS), share, seed)) if row["chosen"][0] == "r"}


def test_flipped_pairs() -> None:
    assert swapped(0.0) == set()
    assert len(swapped(0.2)) == 4
    assert swapped(0.1) < swapped(0.3), "the pairs of a smaller share are among those of a larger one"
    assert swapped(0.3) == swapped(0.3)
    assert swapped(0.3) != swapped(0.3, seed=1)
    assert swapped(1.0) == set(range(20))
    rows = flipped(Dataset.from_list(PAIRS), 0.5, 0)
    assert {row["chosen"][1:] == row["rejected"][1:] for row in rows} == {True}
    with pytest.raises(ConfigError, match="between 0 and 1"):
        flipped(Dataset.from_list(PAIRS), 1.2, 0)


def test_the_first_pairs_of_a_seeded_shuffle(make_job: Callable[..., TrainingJob]) -> None:
    def locations(**overrides: int) -> list[str]:
        return training_pairs(make_job("sft", **overrides).common, label_noise=0.0, seed=0)["location"]

    everything = locations()
    assert sorted(everything) != everything
    assert locations(train_pairs=4) == everything[:4]
    assert locations(train_pairs=4, data_seed=1) != everything[:4]
    with pytest.raises(DataError, match=r"train_pairs is 11, but .*pairs.jsonl holds 10"):
        locations(train_pairs=11)


def test_the_batches_are_those_of_our_trainer(
    make_job: Callable[..., TrainingJob], tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job("qadapter", max_length=14, seed=3)
    pairs = training_pairs(job.common, label_noise=0.0, seed=3)
    own = checked_hyperparameters("qadapter", {"anchors": 0})
    run = Run(pairs, tokenizer, job.common, own, 3, tmp_path, tmp_path)
    trainer = QAdapterTrainer(job.common.model, qadapter_arguments(run), None, pairs, processing_class=tokenizer)
    caplog.clear()
    batches = tokenized_batches(run)
    assert "responses are longer than max_length" in caplog.text
    assert [len(batch) for batch in batches] == [4, 4, 2]
    for ours, batch in zip(trainer.get_train_dataloader(), batches, strict=True):
        for index, row in enumerate(batch):
            chosen = row["prompt_ids"] + row["chosen_ids"]
            assert len(chosen) <= 14
            assert ours["input_ids"][index, ours["attention_mask"][index].bool()].tolist() == chosen


def test_rows_of_trl() -> None:
    assert sft_row([1, 2], [3, 4]) == {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}
    batch = [
        {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4]},
        {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7, 8]},
    ]
    rows = kto_rows(batch, batch)
    assert [(row["prompt_ids"], row["completion_ids"], row["label"]) for row in rows] == [
        ([1], [2, 3], True), ([5], [6], True), ([1], [4], False), ([5], [7, 8], False),
    ]  # fmt: skip
    answers_of = {1: ([2, 3], [4]), 5: ([6], [7, 8])}
    for row in rows:
        assert row["KL_completion_ids"] not in answers_of[row["prompt_ids"][0]], "paired with another prompt's answer"
    assert [row["KL_completion_ids"] for row in kto_rows(batch[:1], batch)] == [[6], [6]]
    assert orpo_row(batch[0]) == {
        "prompt_input_ids": [1], "prompt_attention_mask": [1],
        "chosen_input_ids": [1, 2, 3], "chosen_attention_mask": [1, 1, 1], "chosen_labels": [-100, 2, 3],
        "rejected_input_ids": [1, 4], "rejected_attention_mask": [1, 1], "rejected_labels": [-100, 4],
    }  # fmt: skip

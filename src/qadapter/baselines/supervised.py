"""SFT on the chosen responses, and Replay: SFT on them and on as many answers of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import CommonArguments
from .method import Method, Run, Trained, optimization
from .replay_answers import REPLAY_HYPERPARAMETERS, read_replay_prompts, replay_answers
from .training_pairs import tokenized_batches
from .trl_run import Batches, train_policy, trl_allowed, trl_arguments

_IGNORED = -100


def sft_row(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> dict[str, list[int]]:
    """A row of `trl.SFTTrainer`: the loss is on the response alone."""
    return {
        "input_ids": [*prompt_ids, *response_ids],
        "labels": [_IGNORED] * len(prompt_ids) + [*response_ids],
    }


def train_sft(run: Run) -> Trained:
    """`trl.SFTTrainer` on prompt + chosen; the loss is the mean over a batch's response tokens."""
    batches = tokenized_batches(run)
    rows = [[sft_row(row["prompt_ids"], row["chosen_ids"]) for row in batch] for batch in batches]
    return _fine_tuned(run, rows, rows_per_pair=1, seconds={})


def train_replay(run: Run) -> Trained:
    """As `train_sft`, with as many answers of the base in each batch as it has chosen responses."""
    batches = tokenized_batches(run)
    answers, seconds = replay_answers(run, count=sum(map(len, batches)))
    left = iter(answers)
    rows = [
        [
            *(sft_row(row["prompt_ids"], row["chosen_ids"]) for row in batch),
            *(sft_row(*next(left)) for _ in batch),
        ]
        for batch in batches
    ]
    return _fine_tuned(run, rows, rows_per_pair=2, seconds={"answers of the base": seconds})


def _fine_tuned(run: Run, batches: Batches, *, rows_per_pair: int, seconds: dict[str, float]) -> Trained:
    with trl_allowed():
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(max_length=None, **trl_arguments(run, rows_per_pair=rows_per_pair))
        return train_policy(
            run, SFTTrainer, config, batches, rows_per_pair=rows_per_pair, takes_tokens=True, seconds=seconds
        )


SFT = Method("supervised fine-tuning on the chosen responses", train_sft, optimization(5e-4))


def _check_replay(_common: CommonArguments, hyperparameters: Mapping[str, Any]) -> None:
    if hyperparameters["replay_prompts"] is not None:
        read_replay_prompts(hyperparameters["replay_prompts"])


REPLAY = Method(
    "SFT on the chosen responses and as many answers of the base, so that it keeps giving them",
    train_replay,
    optimization(5e-4) | REPLAY_HYPERPARAMETERS,
    check=_check_replay,
)

"""Held-out pairs out of a training file, so that no prompt is in both parts."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset


def check_eval_split(eval_split: float) -> None:
    """Raise `ConfigError` unless the value is a share between 0 and 1 or a whole number of pairs."""
    if not (0 < eval_split < 1 or (eval_split >= 1 and eval_split == int(eval_split))):
        raise ConfigError(
            f"--eval-split must be a share between 0 and 1 or a whole number of pairs, got {eval_split:g}"
        )


def split_by_prompt(dataset: Dataset, eval_split: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out pairs with all their prompts' other pairs.

    Args:
        dataset: pairs with a column `prompt`.
        eval_split: below 1 the share of pairs to hold out, else their number.
        seed: of the choice.

    Returns:
        The training part and the held-out part, each in the order of `dataset`. The held-out part has as many pairs as
        asked for, or fewer where the prompts have several pairs each and their numbers do not add up.

    Raises:
        DataError: the prompts do not allow a split with at least one pair in both parts.
    """
    wanted = round(eval_split * len(dataset)) if eval_split < 1 else int(eval_split)
    by_prompt: dict[str, list[int]] = {}
    for index, prompt in enumerate(dataset["prompt"]):
        by_prompt.setdefault(json.dumps(prompt, sort_keys=True), []).append(index)
    groups = list(by_prompt.values())
    random.Random(seed).shuffle(groups)
    held_out: set[int] = set()
    for group in groups:
        if len(held_out) + len(group) <= wanted:
            held_out.update(group)
    if not held_out or len(held_out) == len(dataset):
        raise DataError(
            f"--eval-split {eval_split:g} of {len(dataset)} pairs with {len(groups)} different prompts leaves "
            f"{'no pair to evaluate on' if not held_out else 'no pair to train on'}.",
            hint="hold out another number of pairs, or give an --eval-file",
        )
    return (
        dataset.select([index for index in range(len(dataset)) if index not in held_out]),
        dataset.select(sorted(held_out)),
    )

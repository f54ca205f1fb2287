"""Which pairs a run sees, some of them flipped, and in which batches: the same for every method."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from datasets import Dataset

from ..data import load_preference_dataset
from ..errors import ConfigError, DataError
from ..train import tokenize_dataset
from ..train.sampler import LengthGroupedSampler
from .arguments import CommonArguments
from .method import Run


def training_pairs(common: CommonArguments, *, label_noise: float, seed: int) -> Dataset:
    """The pairs of a run.

    Args:
        common: the file, the number of pairs and the seed that chooses them.
        label_noise: share of the pairs whose chosen and rejected are swapped, 0 to 1.
        seed: which ones; those of a smaller share are among those of a larger one.

    Returns:
        Columns prompt, chosen, rejected and location.

    Raises:
        DataError: the file cannot be used, or holds fewer pairs than asked for.
        ConfigError: a share out of range.
    """
    pairs = load_preference_dataset(common.train_file, style=common.style, on_bad_row=common.on_bad_row)
    wanted = len(pairs) if common.train_pairs is None else common.train_pairs
    if wanted > len(pairs):
        raise DataError(f"train_pairs is {wanted}, but {common.train_file} holds {len(pairs)} pairs.")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(common.data_seed)).tolist()
    return flipped(pairs.select(order[:wanted]), label_noise, seed)


def flipped(pairs: Dataset, share: float, seed: int) -> Dataset:
    """Swap chosen and rejected in a share of the pairs: `round(share·pairs)` of them, drawn without replacement.

    Raises:
        ConfigError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"label_noise must be a share between 0 and 1, got {share}")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    swapped = set(order[: round(share * len(pairs))])
    rows = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if index in swapped else row
        for index, row in enumerate(pairs)
    ]
    return Dataset.from_list(rows, features=pairs.features)


def content_of_pairs(pairs: Dataset) -> dict[str, Any]:
    """What stands for pairs: how many there are, and the SHA-256 of prompts, chosen and rejected in their order."""
    digest = hashlib.sha256()
    for row in pairs.select_columns(["prompt", "chosen", "rejected"]):
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return {"count": len(pairs), "sha256": digest.hexdigest()}


def tokenized_batches(run: Run) -> list[list[dict[str, Any]]]:
    """The pairs as tokens, in the batches and the order in which `QAdapterTrainer` visits them in its first epoch.

    Returns:
        Batches of at most `per_device_train_batch_size` rows {prompt_ids, chosen_ids, rejected_ids, ...}; only the
        last may hold fewer.

    Raises:
        DataError: a prompt that leaves no room for a response. Responses that are cut are counted in a warning.
    """
    common = run.common
    rows = tokenize_dataset(run.pairs, run.tokenizer, max_length=common.max_length, on_bad_row=common.on_bad_row)
    size = common.per_device_train_batch_size
    order = list(LengthGroupedSampler(rows["length"], size * common.gradient_accumulation_steps, run.seed))
    return [[rows[index] for index in order[start : start + size]] for start in range(0, len(order), size)]

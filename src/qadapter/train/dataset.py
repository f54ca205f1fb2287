"""From pairs of text to pairs of tokens, for a whole data set."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from ..data import Anchor, NoRoomError, RefusedByTemplateError, TokenizedPair, tokenize_pair
from ..data.dataset import report_bad_rows
from ..data.pairs import BadRow
from ..errors import DataError

logger = logging.getLogger(__name__)


def usable_pairs(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None, on_bad_row: str = "stop"
) -> Dataset:
    """The pairs that `tokenize_dataset` takes, as text: for what uses their prompts in another way than training does.

    Args:
        dataset: columns prompt, chosen, rejected (messages or strings) and, if known, location.
        tokenizer: the base model's.
        max_length: most tokens of prompt + response.
        on_bad_row: as in `tokenize_dataset`.

    Raises:
        DataError: bad rows, or no usable pair.
    """
    usable, bad = [], []
    for index, pair in enumerate(_tokenized(dataset, tokenizer, max_length)):
        if isinstance(pair, BadRow):
            bad.append(pair)
        else:
            usable.append(index)
    report_bad_rows(bad, on_bad_row, logger)
    if not usable:
        raise _nothing_left()
    return dataset.select(usable)


def tokenize_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    on_bad_row: str = "stop",
) -> Dataset:
    """Tokenize every pair.

    Args:
        dataset: columns prompt, chosen, rejected (messages or strings) and, if known, location.
        tokenizer: the base model's.
        max_length: most tokens of prompt + response.
        on_bad_row: `stop` or `skip`, for prompts that leave no room for a response, and messages that the chat template
            refuses.

    Returns:
        The fields of `TokenizedPair` that the collator needs, and `length`, the tokens of the pair with its prompt
        counted once. The log says how many responses were cut, and how many pairs differ nowhere.

    Raises:
        DataError: bad rows, or no usable pair.
    """
    pairs: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    cut = same = 0
    for pair in _tokenized(dataset, tokenizer, max_length):
        if isinstance(pair, BadRow):
            bad.append(pair)
            continue
        cut += (not pair.chosen_terminated) + (not pair.rejected_terminated)
        same += pair.chosen_ids == pair.rejected_ids
        pairs.append(
            {
                "prompt_ids": pair.prompt_ids,
                "chosen_ids": pair.chosen_ids,
                "rejected_ids": pair.rejected_ids,
                "chosen_terminated": pair.chosen_terminated,
                "rejected_terminated": pair.rejected_terminated,
                "length": len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids),
            }
        )
    report_bad_rows(bad, on_bad_row, logger)
    if not pairs:
        raise _nothing_left()
    if cut:
        logger.warning(
            "%d of %d responses are longer than max_length=%s tokens allow: cut, and their last state bootstrapped.",
            cut,
            2 * len(pairs),
            max_length,
        )
    if same:
        logger.warning(
            "%d of %d pairs have the same tokens on both sides (up to max_length=%s, or as the chat template writes "
            "them): they say nothing of the preference.", same, len(pairs), max_length,
        )  # fmt: skip
    return Dataset.from_list(pairs)


def longest_pair(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None) -> int:
    """Tokens of the longest prompt + response of pairs from `usable_pairs`."""
    return max(
        len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
        for pair in _tokenized(dataset, tokenizer, max_length)
        if not isinstance(pair, BadRow)
    )


def _tokenized(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Iterator[TokenizedPair | BadRow]:
    for number, row in enumerate(dataset, start=1):
        try:
            yield tokenize_pair(row, tokenizer, max_length)
        except (NoRoomError, RefusedByTemplateError) as error:
            yield BadRow(row.get("location") or f"row {number}", str(error))


def _nothing_left() -> DataError:
    return DataError("no usable pair is left.", hint="raise max_length")


def digest_of_tokens(dataset: Dataset) -> str:
    """A SHA-256 of all tokens of a data set, where they are parted, and what was cut."""
    digest = hashlib.sha256()
    for row in dataset:
        for side in ("prompt", "chosen", "rejected"):
            ids = row[f"{side}_ids"]
            digest.update(np.array([len(ids), row.get(f"{side}_terminated", True), *ids], dtype="<i8").tobytes())
    return digest.hexdigest()


# So many pairs for each anchor, at most: fewer anchors are repeated.
_PAIRS_PER_ANCHOR = 2


def with_anchors(tokenized: Dataset | None, anchors: Sequence[Anchor], max_length: int | None) -> Dataset | None:
    """The pairs and the anchors as one data set, with a column `anchor`; either alone where the other is missing.

    Beside pairs, all anchors are repeated equally often, at least once, so that there is about one for every two pairs.

    Args:
        tokenized: pairs from `tokenize_dataset`, or None.
        anchors: answers of the base.
        max_length: most tokens of prompt + answer; answers are cut there.

    Raises:
        DataError: an anchor whose prompt leaves no room for an answer.
    """
    if not anchors:
        return tokenized
    rows = []
    for number, anchor in enumerate(anchors, start=1):
        room = None if max_length is None else max_length - len(anchor.prompt_ids)
        if room is not None and room < 1:
            raise DataError(
                f"anchor {number} has a prompt of {len(anchor.prompt_ids)} tokens and max_length is {max_length}.",
                hint="raise max_length",
            )
        row: dict[str, Any] = {"prompt_ids": anchor.prompt_ids, "anchor": True, "length": len(anchor.prompt_ids)}
        for side, ids, finished in zip(("chosen", "rejected"), anchor.answer_ids, anchor.finished, strict=True):
            row |= {f"{side}_ids": ids[:room], f"{side}_terminated": finished and len(ids[:room]) == len(ids)}
            row["length"] += len(ids[:room])
        rows.append(row)
    if tokenized is None:
        return Dataset.from_list(rows)
    if len(rows) > len(tokenized):
        logger.warning(
            f"{len(rows)} anchors beside {len(tokenized)} pairs: most of the training rows are the base's own answers. "
            f"anchors={max(1, len(tokenized) // _PAIRS_PER_ANCHOR)} is the usual share."
        )
    pairs = tokenized.add_column("anchor", [False] * len(tokenized))
    repeated = rows * max(1, round(len(tokenized) / _PAIRS_PER_ANCHOR / len(rows)))
    return concatenate_datasets([pairs, Dataset.from_list(repeated).cast(pairs.features)])

"""From pairs in any form to token rows that a base can take."""

from __future__ import annotations

import logging
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import PAIR_COLUMNS, load_preference_dataset, written_before_answers
from ..errors import DataError
from ..model.positions import refuse_beyond, usable_positions
from .arguments import QAdapterTrainingArguments
from .dataset import longest_pair, tokenize_dataset

logger = logging.getLogger(__name__)


def token_rows(
    source: Any,
    tokenizer: PreTrainedTokenizerBase,
    base: PreTrainedModel,
    args: QAdapterTrainingArguments,
    *,
    split: str = "train",
) -> Dataset:
    """Read and tokenize pairs, and check that the base can take them.

    Args:
        source: in any form that `load_preference_dataset` reads.
        tokenizer: the base model's.
        base: the base, which is only looked at.
        args: of the run.
        split: which split of a hub data set.

    Raises:
        DataError: what `load_preference_dataset` and `tokenize_dataset` refuse, more tokens than positions, or tokens
            that the base does not know.
    """
    # These we have read already. A stream may not know its columns.
    if not isinstance(source, Dataset) or source.column_names != PAIR_COLUMNS:
        source = load_preference_dataset(source, split=split, on_bad_row=args.on_bad_row)
    rows = tokenize_dataset(source, tokenizer, max_length=args.max_length, on_bad_row=args.on_bad_row)
    if split == "train":
        _warn_of_text_of_no_row(source, tokenizer)
    refuse_more_tokens_than_positions(rows, usable_positions(base))
    embedding = base.get_input_embeddings()
    # Its weight may be sharded, and empty here.
    refuse_unknown_tokens(rows, getattr(embedding, "base_layer", embedding).num_embeddings)
    return rows


def _warn_of_text_of_no_row(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say what the chat template makes both responses begin with, where the rows themselves do not."""
    if isinstance(pairs[0]["prompt"], str) or not (text := written_before_answers(tokenizer)).strip():
        return
    opening = text.split()[0]
    without = sum(opening not in row["chosen"][-1]["content"] for row in pairs)
    if without:
        logger.warning(
            "the chat template begins every response with %r, which %d of %d chosen responses do not hold: these "
            "tokens are trained as actions of both sides, and generation starts before them. To keep them out, let "
            "the generation prompt end with them: for Qwen3 chat_template_kwargs={\"enable_thinking\": false} "
            "(--chat-template-kwargs; in Python of load_base_tokenizer, whose tokenizer is the processing_class).",
            text, without, len(pairs),
        )  # fmt: skip


def are_token_rows(source: Any) -> bool:
    """Whether a source, other than a file, holds pairs as `token_rows` makes them."""
    if isinstance(source, Dataset):
        return "prompt_ids" in source.column_names
    return isinstance(source, list) and any(isinstance(row, dict) and "prompt_ids" in row for row in source[:1])


def refuse_more_tokens_than_positions(dataset: Dataset, positions: int | None) -> None:
    """Stop before a row that the base has no positions for.

    Args:
        dataset: tokenized pairs.
        positions: tokens that the base can number; None where it has no limit.

    Raises:
        DataError: a prompt and a response are longer, with the length of the longest.
    """
    if positions:
        lengths = (len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in dataset)
        refuse_beyond(positions, max(lengths, default=0), "a prompt and its response")


def refuse_pairs_beyond_positions(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None, positions: int | None
) -> None:
    """The same for pairs as text, where their tokens will be made later: before anything slow starts.

    Args:
        pairs: from `usable_pairs`.
        tokenizer: the base model's.
        max_length: most tokens of prompt + response.
        positions: tokens that the base can number; None where it has no limit.

    Raises:
        DataError: a prompt and a response are longer, with the length of the longest.
    """
    # Cut at max_length, they fit.
    if positions and (max_length is None or max_length > positions):
        longest = longest_pair(pairs, tokenizer, max_length=max_length)
        refuse_beyond(positions, longest, "a prompt and its response")


def refuse_unknown_tokens(dataset: Dataset, known: int) -> None:
    """Stop before a token that the base has no embedding of.

    Args:
        dataset: tokenized pairs.
        known: rows of the base's input embedding.

    Raises:
        DataError: with the largest token.
    """
    sides = ("prompt_ids", "chosen_ids", "rejected_ids")
    largest = max((max(row[side], default=0) for row in dataset for side in sides), default=0)
    if largest >= known:
        raise DataError(
            f"the data hold the token {largest}, and the base's input embedding has {known} rows.",
            hint="use the base's own tokenizer, or give the base rows for what was added to it "
            "(resize_token_embeddings) and save it",
        )

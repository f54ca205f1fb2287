"""Perplexity on plain text: does the model still predict ordinary documents?"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..errors import DataError
from ..model import QAdapterForCausalLM
from ..model.positions import refuse_beyond
from .token_scores import ScoredText, score_tokens

_LARGEST_EXPONENT = math.log(sys.float_info.max)


class DocumentScore(NamedTuple):
    """One document."""

    nats: float
    """−log π̃ of the document given its start token."""
    tokens: int


@dataclass(frozen=True)
class PerplexityResult:
    """How well a policy predicts documents, every token counted once."""

    perplexity: float | None
    """exp of `nats_per_token`; None beyond what a float holds."""
    nats_per_token: float
    """−log π̃ summed over all documents, over the number of their tokens."""
    tokens: int
    items: list[DocumentScore]
    """In the order of the documents."""


def evaluate_perplexity(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    strength: float = 1.0,
    max_length: int = 1024,
    batch_size: int = 16,
) -> PerplexityResult:
    """Score every token of every document.

    A document that does not fit into one window is read in windows of `max_length` tokens that move on by half of
    that: each token is scored once, given at least `max_length // 2` tokens before it where the document has them.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer. The first token is scored given the BOS token (the EOS token where there is none).
        documents: texts of at least one token each.
        strength: η; 0 is the base.
        max_length: tokens of a window, its start token included.
        batch_size: windows per batch; no result depends on it beyond rounding.

    Raises:
        DataError: a document without tokens, a window of more tokens than the base has positions, or a tokenizer with
            neither BOS nor EOS.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise DataError("the tokenizer has neither a BOS nor an EOS token to start a document with.")
    windows: list[ScoredText] = []
    owners: list[int] = []
    for number, document in enumerate(documents):
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        if not ids:
            raise DataError(f"document {number + 1} has no tokens.")
        for window in rolling_windows([start, *ids], max_length):
            windows.append(window)
            owners.append(number)
    refuse_beyond(model.max_positions, max(len(window.ids) for window in windows), "windows of plain text")
    scores = score_tokens(model, windows, strength=strength, batch_size=batch_size)
    nats, tokens = [0.0] * len(documents), [0] * len(documents)
    for owner, score in zip(owners, scores, strict=True):
        nats[owner] -= score.logp.cpu().double().sum().item()
        tokens[owner] += len(score.logp)
    mean = sum(nats) / sum(tokens)
    return PerplexityResult(
        perplexity=math.exp(mean) if mean < _LARGEST_EXPONENT else None,
        nats_per_token=mean,
        tokens=sum(tokens),
        items=[DocumentScore(*item) for item in zip(nats, tokens, strict=True)],
    )


def longest_window(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], max_length: int) -> int:
    """Tokens of the longest window that `evaluate_perplexity` makes of documents; 0 of none."""
    # And the start token.
    lengths = (1 + len(tokenizer(document, add_special_tokens=False)["input_ids"]) for document in documents)
    return min(max(lengths, default=0), max_length)


def rolling_windows(ids: list[int], max_length: int) -> Iterator[ScoredText]:
    """Windows over a document whose scored tokens are all tokens but the first, each once and in order.

    Args:
        ids: the start token and at least one token of the document.
        max_length: most tokens of a window, at least 2.
    """
    stride = max(1, max_length // 2)
    end = min(max_length, len(ids))
    yield ScoredText(ids[:end], end - 1)
    while end < len(ids):
        scored = min(stride, len(ids) - end)
        end += scored
        yield ScoredText(ids[end - max_length : end], scored)

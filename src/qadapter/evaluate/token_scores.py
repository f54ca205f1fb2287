"""Log-probabilities of given tokens under the policy at a strength.

Texts with the same context, such as the choices of a question, share one row where the model's attention allows it:

    tokens      c c c c a a b b b     (c context, a and b scored texts, each without its last token)
    positions   0 1 2 3 4 5 4 5 6     all texts continue the context
    attention   causal, and the texts do not see each other

Rows of a batch end together, so that the LM head is applied to their last positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..model import QAdapterForCausalLM
from ..model.masked_attention import matrix_attention
from ..model.shared_prefix import packed_attention_mask
from .policy import policy_at

# Logits held at a time, one row at least: on a CPU fresh memory costs more than a larger product saves.
_MOST_LOGITS_CPU, _MOST_LOGITS_ELSEWHERE = 2**25, 2**28
# Texts are added to a row up to this length.
_LONGEST_SHARED_ROW = 1024


class ScoredText(NamedTuple):
    """A sequence of tokens, the last of which are to be scored."""

    ids: list[int]
    """Context and scored tokens; at least one token of context."""
    scored: int
    """How many of the last tokens are scored, at least 1."""


class TokenScores(NamedTuple):
    """What the policy says of the scored tokens of one sequence."""

    logp: Tensor
    """[scored] log π̃ of each token given all before it, nats, float32 or wider, on the CPU."""
    is_greedy: Tensor
    """[scored] bool: whether the token is the policy's most likely one."""


class _Row(NamedTuple):
    """A context and the texts that continue it."""

    context: list[int]
    texts: list[tuple[int, list[int]]]
    """Each text's number and its scored tokens."""

    @property
    def tail(self) -> int:
        """Positions with a state in which a scored token was taken: the context's last one and those after it."""
        return 1 + sum(len(ids) - 1 for _, ids in self.texts)

    @property
    def length(self) -> int:
        return len(self.context) - 1 + self.tail


@torch.inference_mode()
def score_tokens(
    model: QAdapterForCausalLM,
    texts: Sequence[ScoredText],
    *,
    strength: float = 1.0,
    batch_size: int = 16,
) -> list[TokenScores]:
    """Score the last tokens of sequences, in batches of like length.

    Args:
        model: the model; put in eval mode.
        texts: sequences, each no longer than the model's context.
        strength: η; 0 is the base.
        batch_size: most rows per batch; no result depends on it beyond rounding.

    Returns:
        One entry per sequence, in their order.
    """
    model.eval()
    scores: dict[int, TokenScores] = {}
    window = model.window or _LONGEST_SHARED_ROW
    # A row of several texts needs the packed mask, and that is for batches within the window.
    fits = model.window is None or max((len(text.ids) - 1 for text in texts), default=0) <= window
    longest = min(_LONGEST_SHARED_ROW, window) if model.share_prefix and fits else 0
    most_logits = _MOST_LOGITS_CPU if model.device.type == "cpu" else _MOST_LOGITS_ELSEWHERE
    most_kept = most_logits // model.config.get_text_config().vocab_size
    for rows in _batches(_rows(texts, longest), batch_size, most_kept):
        keep = max(row.tail for row in rows)
        width = max(row.length for row in rows)
        packed = model.share_prefix and width <= (model.window or width)
        inputs = _packed_inputs(rows, model) if packed else left_padded([_ids(row) for row in rows], model.device)
        with matrix_attention(model.base):
            logits = model(**inputs, logits_to_keep=keep, use_cache=False, **policy_at(model, strength)).logits
        for number, row in enumerate(rows):
            for (index, _), score in zip(row.texts, _scores(row, logits[number, keep - row.tail :]), strict=True):
                scores[index] = score
    return [scores[index] for index in range(len(texts))]


def _scores(row: _Row, logits: Tensor) -> Iterator[TokenScores]:
    """The scores of a row's texts, from the logits [tail, vocabulary] of its states."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total, highest = wide.logsumexp(-1), wide.amax(-1)
    # The context's last state stands before all texts.
    column = 1
    for _, ids in row.texts:
        at = torch.tensor([0, *range(column, column + len(ids) - 1)], device=logits.device)
        column += len(ids) - 1
        targets = torch.tensor(ids, device=logits.device)
        taken = wide[at, targets]
        greedy = taken == highest[at]
        # Logits in half precision tie; the most likely token is the first of those that do.
        greedy[greedy.clone()] = wide[at[greedy]].argmax(-1) == targets[greedy]
        yield TokenScores((taken - total[at]).cpu(), greedy.cpu())


def left_padded(rows: Sequence[list[int]], device: torch.device) -> dict[str, Tensor]:
    """Rows of unequal length that end together: input_ids, attention_mask and position_ids, each [rows, tokens]."""
    width = max(map(len, rows))
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def _rows(texts: Sequence[ScoredText], longest: int) -> list[_Row]:
    """The texts in rows; texts of one context share a row of up to `longest` tokens."""
    rows: list[_Row] = []
    open_row: dict[tuple[int, ...], _Row] = {}
    for index, text in enumerate(texts):
        context, ids = text.ids[: -text.scored], text.ids[-text.scored :]
        row = open_row.get(tuple(context))
        if row is None or row.length + len(ids) - 1 > longest:
            row = open_row[tuple(context)] = _Row(context, [])
            rows.append(row)
        row.texts.append((index, ids))
    return rows


def _ids(row: _Row) -> list[int]:
    return row.context + [token for _, ids in row.texts for token in ids[:-1]]


def _packed_inputs(rows: Sequence[_Row], model: QAdapterForCausalLM) -> dict[str, Any]:
    width = max(row.length for row in rows)
    positions, segments = [], []
    for row in rows:
        padding, context = width - row.length, len(row.context)
        positions.append([0] * padding + list(range(context)))
        segments.append([-1] * padding + [0] * context)
        for number, (_, ids) in enumerate(row.texts, start=1):
            positions[-1] += range(context, context + len(ids) - 1)
            segments[-1] += [number] * (len(ids) - 1)
    return {
        "input_ids": left_padded([_ids(row) for row in rows], model.device)["input_ids"],
        "position_ids": torch.tensor(positions, device=model.device),
        "attention_mask": packed_attention_mask(torch.tensor(segments, device=model.device), model.dtype),
    }


def _batches(rows: list[_Row], batch_size: int, most_kept: int) -> Iterator[list[_Row]]:
    """Rows in batches, the longest first: if memory is short, it shows at once."""
    batch: list[_Row] = []
    keep = 0
    for row in sorted(rows, key=lambda row: (-row.length, -row.tail)):
        wider = max(keep, row.tail)
        if batch and (len(batch) == batch_size or (len(batch) + 1) * wider > most_kept):
            yield batch
            batch, wider = [], row.tail
        batch.append(row)
        keep = wider
    if batch:
        yield batch

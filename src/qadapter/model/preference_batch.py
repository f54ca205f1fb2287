"""A preference batch as the backbone takes it: one row per pair where the model allows it, two otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from ..errors import ConfigError, DataError
from .response_states import ResponseStates, response_states
from .shared_prefix import PackedPairs, pack_pairs

logger = transformers.logging.get_logger(__name__)


class PreferenceBatch(NamedTuple):
    """What one pass over the pairs needs, whichever policy makes it."""

    states: ResponseStates
    """The states that count."""
    inputs: dict[str, Any]
    """Keywords of the backbone."""
    at: tuple[Tensor, Tensor]
    """Row and column of each state in the backbone's output."""


def preference_batch(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    completion_mask: Tensor | None = None,
    terminated: Tensor | None = None,
    *,
    share_prefix: bool,
    window: int | None,
    mask_of: Callable[[Tensor], Any],
    **backbone_kwargs: Any,
) -> PreferenceBatch:
    """Lay out the pairs.

    Args:
        input_ids: [2·pairs, tokens], chosen rows first.
        attention_mask: [2·pairs, tokens] or None; padding stands on the right.
        completion_mask: [2·pairs, tokens] bool, True at the tokens of the response (a contiguous run).
        terminated: [2·pairs] bool, False where a response was cut.
        share_prefix: whether the model's attention can take a pair in one row.
        window: the longest row that its attention sees whole, or None for any.
        mask_of: makes the attention mask of packed rows from their segments, as the backbone's attention takes it.
        **backbone_kwargs: go to the backbone as they are.

    Raises:
        ConfigError: no completion_mask or terminated.
        DataError: a row without prompt or without response tokens, or padded elsewhere than on the right.
    """
    if completion_mask is None or terminated is None:
        raise ConfigError(
            "a preference batch needs completion_mask ([rows, tokens] bool) and terminated ([rows] bool)."
        )
    states = response_states(input_ids, completion_mask.bool(), terminated)
    if attention_mask is not None:
        _check_right_padded(attention_mask, states)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False, **backbone_kwargs}
    packed = _packed(input_ids, states, window) if share_prefix else None
    if packed is not None:
        inputs["input_ids"], inputs["position_ids"] = packed.input_ids, packed.position_ids
        inputs["attention_mask"] = mask_of(packed.segments)
    return PreferenceBatch(states, inputs, states.columns(packed=packed is not None))


def _check_right_padded(attention_mask: Tensor, states: ResponseStates) -> None:
    column = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]
    padded = (attention_mask == 0) & (column < (states.first + states.lengths)[:, None])
    if bool(padded.any()):
        raise DataError(
            f"rows {padded.any(dim=1).nonzero().flatten().tolist()} of the batch have padding before or within their "
            "prompt and response.",
            hint="pad on the right, as PreferenceCollator does",
        )


def _packed(input_ids: Tensor, states: ResponseStates, window: int | None) -> PackedPairs | None:
    """The batch with one row per pair; None where it needs two."""
    packed = pack_pairs(input_ids, states.first, states.lengths)
    if packed is None or window is None or packed.input_ids.shape[1] <= window:
        return packed
    logger.warning_once(
        f"a pair of {packed.input_ids.shape[1]} tokens is longer than the {window} that its attention sees; such pairs "
        "are trained as two rows (slower, same result)."
    )
    return None

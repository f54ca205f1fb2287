"""Trying a model before it is served: rows of different lengths, read together as those of requests are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UnsupportedModelError
from ...model import QAdapterForCausalLM
from ...model.lora import Rows
from ...model.quantization import is_quantized
from .kv_rows import KVRows
from .step import hidden_states

# Few tokens, so that it takes no time on a large model. A window of real size is not tried: those that cannot be
# served for theirs are named in `check_servable`.
_ROWS = (range(20, 24), range(2, 27))
# Of the norm of a state. Rounding takes 1e-6 in float32 and up to a few hundredths in bfloat16, where other products
# than for one row are taken; a token that sees too much or too little changes by about the norm itself.
_ROUNDING, _COARSE_ROUNDING = 1e-2, 0.2


def check_reads_together(model: QAdapterForCausalLM, layers: int) -> None:
    """Refuse a base that does not read two rows together as it reads each alone, by its own masks and without a cache.

    A family that goes by a key's place where we count its position, or by how the cache lies in memory, would
    start, and then answer wrongly or fail with each request.

    Args:
        model: the base with its adapters; the base's policy is tried.
        layers: attention layers of the model.

    Raises:
        UnsupportedModelError: the states differ by more than rounding, or the pass failed.
    """
    name = f"{type(model.base).__name__} (model_type {model.base.config.model_type!r})"
    hint = "use `qadapter generate` or generate(), which read rows of one length"
    try:
        differences = list(map(_difference, _read_together(model, layers), _read_alone(model)))
    except torch.OutOfMemoryError:
        raise  # says nothing about the model
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} cannot be served in batches that requests join and leave: reading two short rows together failed "
            f"with {type(error).__name__}: {error}",
            hint,
        ) from error
    exact = model.dtype == torch.float32 and not is_quantized(model.base)
    rounding = _ROUNDING if exact else _COARSE_ROUNDING
    # What is no number is no rounding, either.
    if not all(difference <= rounding for difference in differences):
        raise UnsupportedModelError(
            f"{name} cannot be served in batches that requests join and leave: beside a longer row it reads a row "
            f"otherwise than alone (its states differ by {' and '.join(f'{one:.2g}' for one in differences)} of their "
            "norm).",
            hint,
        )


@torch.no_grad()
def _read_together(model: QAdapterForCausalLM, layers: int) -> list[Tensor]:
    """[tokens, hidden] of each row: all tokens but the last in one pass, and the last as a decode step."""
    cache = KVRows(layers)
    for _ in _ROWS:
        cache.add_row()
    prompts = hidden_states(model, cache, [row[:-1] for row in _ROWS], ())
    step = hidden_states(model, cache, [row[-1:] for row in _ROWS], ())
    return [torch.cat([prompts[number, : len(row) - 1], step[number]]) for number, row in enumerate(_ROWS)]


@torch.no_grad()
def _read_alone(model: QAdapterForCausalLM) -> list[Tensor]:
    def read(row: Sequence[int]) -> Tensor:
        ids = torch.tensor([list(row)], device=model.device)
        states: Tensor = model.base.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        return states

    with model.row_router.route(Rows.BASE):
        return [read(row) for row in _ROWS]


def _difference(states: Tensor, expected: Tensor) -> float:
    """The largest of a token's, as a part of the norm of its state."""
    states, expected = states.float(), expected.float()
    return float(((states - expected).norm(dim=-1) / expected.norm(dim=-1)).max())

"""How many positions of a base are used."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from ..errors import DataError
from .long_rope import steady_positions


def usable_positions(base: PreTrainedModel) -> int | None:
    """How many positions of a model are used; None where its config does not say."""
    return positions_of(base.config)


def positions_of(config: PretrainedConfig) -> int | None:
    """The same, where only the config has been read.

    As many as it was made for, or as its RoPE keeps its frequencies for: beyond them the policy at a token would
    depend on how long the other rows of its batch are.
    """
    limits = (_declared(config), steady_positions(config))
    return min((limit for limit in limits if limit is not None), default=None)


def declared_positions(base: PreTrainedModel) -> int | None:
    """How many positions a model was made for; None where its config does not say."""
    return _declared(base.config)


def refuse_beyond(positions: int | None, tokens: int, who: str) -> None:
    """Stop before a row that the base has no positions for. Some models fail at it, the others go on untrained.

    Args:
        positions: tokens that the base can number; None where it has no limit.
        tokens: of the longest row.
        who: which rows these are, as the subject of a sentence.

    Raises:
        DataError: there are more tokens than positions.
    """
    if positions and tokens > positions:
        raise DataError(
            f"{who} have {tokens} tokens, and the base has {positions} positions.",
            hint=f"lower max_length to at most {positions}",
        )


def _declared(config: PretrainedConfig) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)

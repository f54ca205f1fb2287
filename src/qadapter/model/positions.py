"""How many positions of a base are used."""

from __future__ import annotations

from transformers import PreTrainedModel

from .long_rope import steady_positions


def usable_positions(base: PreTrainedModel) -> int | None:
    """How many positions of a model are used; None where its config does not say.

    As many as it was made for, or as its RoPE keeps its frequencies for: beyond them the policy at a token would
    depend on how long the other rows of its batch are.
    """
    limits = (declared_positions(base), steady_positions(base))
    return min((limit for limit in limits if limit is not None), default=None)


def declared_positions(base: PreTrainedModel) -> int | None:
    """How many positions a model was made for; None where its config does not say."""
    return getattr(base.config.get_text_config(), "max_position_embeddings", None)

"""RoPE that takes other frequencies for all rows of a batch as soon as one of them is long (`longrope`, `dynamic`).

Keys that were cached before that have the old frequencies, and a row's states depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from ..errors import ConfigError


def steady_positions(config: PretrainedConfig) -> int | None:
    """Up to how many positions a model's RoPE keeps its frequencies; None where they never change."""
    config = config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one per kind of layer.
    limits = []
    for rope in [parameters, *(entry for entry in parameters.values() if isinstance(entry, dict))]:
        kind = rope.get("rope_type") or ""
        if kind == "longrope":
            limits.append(rope["original_max_position_embeddings"])
        elif "dynamic" in kind:
            limits.append(config.max_position_embeddings)
    return min(limits, default=None)


def check_steady(base: PreTrainedModel, model_kwargs: Mapping[str, Any], chunk: int | None, last: int) -> None:
    """Refuse to decode across the point where the RoPE changes.

    Args:
        base: the model.
        model_kwargs: what `generate` has prepared, with position_ids and, where there is one, a cache to go on from.
        chunk: most tokens of the prompt that are read in one pass; None reads it whole.
        last: tokens that will have been read when the last one of the answer is chosen.

    Raises:
        ConfigError: the keys of the first pass would not fit to those of the last.
    """
    steady = steady_positions(base.config)
    if steady is None:
        return
    prompt = int(model_kwargs["position_ids"].max()) + 1
    cache = model_kwargs.get("past_key_values")
    first = (cache.get_seq_length() if cache is not None else 0) or min(prompt, chunk or prompt)
    if first <= steady < max(prompt, last):
        raise ConfigError(
            f"the answer begins within and may end beyond {steady} tokens, where the RoPE of {type(base).__name__} "
            "takes other frequencies: the keys in the cache would be those of before.",
            hint="allow fewer tokens (max_new_tokens), or use_cache=False, which reads all of them again for each",
        )

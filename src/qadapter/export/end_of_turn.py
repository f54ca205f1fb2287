"""Where answers end, for engines that know the stop tokens of the base's generation config alone.

Training ends an answer to a conversation with the token that ends a turn in the chat template. A base that was not
tuned for conversations stops at its end of text only: without the other token an exported policy would run on.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..data import end_of_turn_id
from ..generate import stop_ids
from ..model import QAdapterForCausalLM

GENERATION_CONFIG = "generation_config.json"


def added_stop_ids(model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """All tokens that end an answer, where the base's generation config lacks one of them; otherwise None."""
    configured = model.generation_config.eos_token_id
    ends = stop_ids(model, tokenizer)
    return ends if set(ends) - set(configured if isinstance(configured, list) else [configured]) else None


def write_stop_ids(folder: Path, ends: list[int] | None) -> None:
    """Put what ends an answer into a folder's generation config, and leave the rest of it as it is.

    The file is changed and not the model's config: transformers refuses to save a changed one that it takes for bad,
    such as a base's with a min_p and without do_sample.

    Args:
        folder: of the export.
        ends: what `added_stop_ids` found; None changes nothing.
    """
    if ends is None:
        return
    path = folder / GENERATION_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(config | {"eos_token_id": ends}, indent=2) + "\n", encoding="utf-8")


def stop_note(model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> str:
    """Markdown for the card of an export without a generation config of its own; empty where the base's will do."""
    ends = added_stop_ids(model, tokenizer)
    if ends is None:
        return ""
    end = end_of_turn_id(tokenizer)
    return f"""

Answers end with `{tokenizer.convert_ids_to_tokens(end)}` (token {end}), at which the base's own generation config does
not stop: name it to the engine, as `eos_token_id={ends}` of transformers' `generate` or as a stop word."""

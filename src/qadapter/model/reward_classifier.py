"""Reward models of transformers: sequence classifiers with one output, checked before anyone relies on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import ConfigError
from .reward_tokens import STRINGS, noted_training


def reward_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a reward model whose config was checked; no weights are read.

    Args:
        name: folder or hub id.

    Raises:
        ConfigError: it cannot be had, has several outputs, or its tokenizer has no chat template and its config does
            not say that it was trained on strings.
    """
    config = _from_pretrained(AutoConfig, name)
    if config.num_labels != 1:
        raise ConfigError(
            f"the reward model {str(name)!r} has {config.num_labels} labels ({', '.join(config.id2label.values())}); "
            "a reward is one number.",
            hint="give a model with num_labels=1, as trl's RewardTrainer makes it",
        )
    tokenizer = _from_pretrained(AutoTokenizer, name)
    if not tokenizer.chat_template and noted_training(config) != STRINGS:
        raise ConfigError(
            f"the tokenizer of the reward model {str(name)!r} has no chat template: how it reads a prompt and an "
            "answer is not known.",
            hint="save its tokenizer with the chat template that it was trained with",
        )
    return tokenizer


def reward_classifier(name: str | Path) -> PreTrainedModel:
    """The model, in eval mode and the dtype it is stored in.

    Args:
        name: folder or hub id; safetensors, and no code that comes with the model is run.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing (transformers would draw them at random).
    """
    model, loading = _from_pretrained(
        AutoModelForSequenceClassification, name, dtype="auto", use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(loading["missing_keys"]):
        raise ConfigError(
            f"the checkpoint of the reward model {str(name)!r} lacks {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}.",
            hint="a causal LM is no reward model; give one that was trained as AutoModelForSequenceClassification",
        )
    return model.eval()


@torch.inference_mode()
def rewards_of(model: PreTrainedModel, rows: Sequence[list[int]], *, batch_size: int) -> list[float]:
    """The rewards of rows of tokens, in their order.

    Args:
        model: with one output.
        rows: token ids.
        batch_size: rows at a time. A model whose config has no padding token reads one row at a time: it takes its
            reward from the very last position, and padding would move that.
    """
    # The model finds the end of a text by the padding token of its config, whatever the tokenizer's is.
    pad_id = model.config.get_text_config().pad_token_id
    size = 1 if pad_id is None else batch_size
    rewards: list[float] = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        width = max(map(len, batch))
        ids = [row + [pad_id or 0] * (width - len(row)) for row in batch]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in batch]
        inputs = {"input_ids": ids, "attention_mask": mask}
        found = model(**{name: torch.tensor(value, device=model.device) for name, value in inputs.items()})
        rewards += found.logits[:, 0].double().tolist()
    return rewards


def _from_pretrained(auto: Any, name: str | Path, **kwargs: Any) -> Any:
    try:
        return auto.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the reward model {str(name)!r} cannot be loaded: {error}") from error

"""Reward models of transformers: sequence classifiers with one output, checked before anyone relies on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import ConfigError


def reward_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a reward model whose config was checked; no weights are read.

    Args:
        name: folder or hub id.

    Raises:
        ConfigError: it cannot be had, has several outputs, or its tokenizer has no chat template.
    """
    config = _from_pretrained(AutoConfig, name)
    if config.num_labels != 1:
        raise ConfigError(
            f"the reward model {str(name)!r} has {config.num_labels} labels ({', '.join(config.id2label.values())}); "
            "a reward is one number.",
            hint="give a model with num_labels=1, as trl's RewardTrainer makes it",
        )
    tokenizer = _from_pretrained(AutoTokenizer, name)
    if not tokenizer.chat_template:
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


def _from_pretrained(auto: Any, name: str | Path, **kwargs: Any) -> Any:
    try:
        return auto.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the reward model {str(name)!r} cannot be loaded: {error}") from error

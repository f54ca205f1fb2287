"""A reward model on the same pairs: for policy gradients, and as a judge."""

from __future__ import annotations

import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..model.reward_tokens import CONVERSATIONS, STRINGS, note_training, turn_tail
from .method import Method, Run, Trained, optimization, trained_parameters
from .policy import plain_base
from .training_pairs import tokenized_batches
from .trl_run import train_rows, trl_allowed, trl_arguments


def train_reward_model(run: Run) -> Trained:
    """`trl.RewardTrainer`: the base's backbone with one output, the common LoRA, the Bradley-Terry loss.

    Returns:
        An `AutoModelForSequenceClassification` with the LoRA merged, in the dtype of the base; its config says what its
        pairs were.
    """
    with trl_allowed():
        from trl import RewardConfig, RewardTrainer

        config = RewardConfig(max_length=None, **trl_arguments(run))
        read = what_it_reads(run)
        tail = turn_tail(run.tokenizer) if read == CONVERSATIONS else []
        batches = [
            [
                {
                    f"{side}_ids": pair["prompt_ids"]
                    + pair[f"{side}_ids"]
                    + (tail if pair[f"{side}_terminated"] else [])
                    for side in ("chosen", "rejected")
                }
                for pair in batch
            ]
            for batch in tokenized_batches(run)
        ]
        torch.manual_seed(run.seed)
        classifier = classifier_on(plain_base(run.common), run.tokenizer)
        model, seconds = train_rows(run, RewardTrainer, config, batches, classifier, _lora(run), takes_tokens=True)
    parameters = trained_parameters(model)
    # Merged in float32 and rounded once.
    merged = model.float().merge_and_unload(safe_merge=True).to(getattr(torch, run.common.dtype))
    note_training(merged.config, read)
    pairs = sum(map(len, batches)) * config.num_train_epochs
    return Trained(merged.eval(), {"training": seconds}, round(pairs), parameters)


def classifier_on(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A sequence classifier with one output on the backbone of a causal LM, in its dtype; the new head is random.

    The classifier reads its output at the last token that is not padding, so it must know the pad token.
    """
    config = type(base.config).from_dict({**base.config.to_dict(), "num_labels": 1})
    pad_id = tokenizer.pad_token_id
    config.get_text_config().pad_token_id = tokenizer.eos_token_id if pad_id is None else pad_id
    config.name_or_path = base.config.name_or_path
    classifier = AutoModelForSequenceClassification.from_config(config, dtype=base.dtype)
    classifier.base_model.load_state_dict(base.base_model.state_dict())
    return classifier


def what_it_reads(run: Run) -> str:
    """What a reward model on the pairs of a run is trained on: `STRINGS` or `CONVERSATIONS`."""
    return STRINGS if isinstance(run.pairs[0]["prompt"], str) else CONVERSATIONS


def _lora(run: Run) -> LoraConfig:
    config = run.common.lora_config
    config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
    return config


REWARD = Method(
    "a reward model (a sequence classifier with one output), for rloo and as a judge",
    train_reward_model,
    optimization(5e-4),
    makes_policy=False,
)

"""The trainers of TRL, run with the arguments and on the tokens that our own trainer sees.

TRL tokenizes text by itself, and differently from trainer to trainer: it also scores what a chat template writes after
the end of a turn, and leaves out pairs with long prompts or (RewardTrainer) long answers. So its trainers get our
tokens: the same pairs, cut at the same place, in the same batches and order.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import huggingface_hub.constants
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..errors import MissingExtraError
from ..model.frozen_base import check_lm_head, freeze_base
from .method import Run, Trained, trained_parameters
from .policy import adapter_policy, plain_base

Batches = list[list[dict[str, Any]]]


@contextmanager
def trl_allowed() -> Iterator[None]:
    """Import and use TRL inside: its telemetry is off, and it does not warn that some trainers are experimental.

    Restores the process's settings.

    Raises:
        MissingExtraError: TRL is not installed.
    """
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("trl", "baselines", "training a baseline") from error
    constants = huggingface_hub.constants
    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*trl.experimental.*")
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def trainer_arguments(run: Run) -> dict[str, Any]:
    """The fields of `TrainingArguments` that all methods share."""
    common, own = run.common, run.hyperparameters
    return {
        "output_dir": str(run.output_dir),
        "learning_rate": own["learning_rate"],
        "num_train_epochs": common.num_train_epochs if own["num_train_epochs"] is None else own["num_train_epochs"],
        "per_device_train_batch_size": common.per_device_train_batch_size,
        "gradient_accumulation_steps": common.gradient_accumulation_steps,
        "lr_scheduler_type": common.lr_scheduler_type,
        "warmup_steps": common.warmup_steps,
        "weight_decay": common.weight_decay,
        "max_grad_norm": common.max_grad_norm,
        "seed": run.seed,
        # Asked for where there is nothing else: transformers refuses bfloat16 otherwise.
        "use_cpu": common.use_cpu or not torch.accelerator.is_available(),
        "save_strategy": "no",
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
    }


def trl_arguments(run: Run, *, rows_per_pair: int = 1) -> dict[str, Any]:
    """The same as fields of a config of TRL, and what makes its trainers comparable.

    Args:
        run: the run.
        rows_per_pair: how many rows of TRL one of our pairs becomes; batches hold the same pairs.
    """
    shared = trainer_arguments(run)
    return shared | {
        "per_device_train_batch_size": rows_per_pair * shared["per_device_train_batch_size"],
        # The frozen weights are stored in `dtype`; the LoRA stays in float32 and is multiplied under autocast.
        "bf16": run.common.dtype == "bfloat16",
        # Our trainer does not recompute activations either unless told to.
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
    }


def train_policy(
    run: Run,
    trainer_class: Callable[..., Trainer],
    config: TrainingArguments,
    batches: Batches,
    *,
    rows_per_pair: int = 1,
    takes_tokens: bool = False,
    seconds: Mapping[str, float] | None = None,
) -> Trained:
    """Train the common LoRA on the base.

    Args:
        run: the run.
        trainer_class: of TRL.
        config: its arguments.
        batches: of rows, as `train_rows` takes them.
        rows_per_pair: rows for each pair.
        takes_tokens: as in `train_rows`.
        seconds: what was spent before, by part.

    Returns:
        The LoRA as a policy with `BASELINE_CONSTANTS`.

    Raises:
        UnsupportedModelError: a base on which policies cannot be mixed exactly; before anything is trained.
    """
    base = plain_base(run.common)
    freeze_base(base)
    check_lm_head(base)
    peft_model, training = train_rows(run, trainer_class, config, batches, base, run.common.lora_config, takes_tokens)
    pairs = sum(map(len, batches)) / rows_per_pair * config.num_train_epochs
    seconds = {**(seconds or {}), "training": training}
    return Trained(adapter_policy(peft_model), seconds, round(pairs), trained_parameters(peft_model))


def train_rows(
    run: Run,
    trainer_class: Callable[..., Trainer],
    config: TrainingArguments,
    batches: Batches,
    model: PreTrainedModel,
    peft_config: LoraConfig,
    takes_tokens: bool,
) -> tuple[PeftModel, float]:
    """Build a trainer of TRL and train it on our rows.

    Args:
        run: the run.
        trainer_class: of TRL.
        config: its arguments.
        batches: what the trainer's own preparation would have made of the text, by batch; visited in this order.
        model: plain; TRL wraps it by PEFT (a model that is wrapped already would get a second adapter, `ref`).
        peft_config: the LoRA.
        takes_tokens: whether the trainer can be built with rows of tokens. Otherwise it is built with one pair of
            text, and gets the rows then.

    Returns:
        The trained model and the seconds of the training loop.
    """
    rows = Dataset.from_list(list(chain.from_iterable(batches)))
    text = run.pairs.select([0]).select_columns(["prompt", "chosen", "rejected"])
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=rows if takes_tokens else text,
        # TRL sets a missing pad token, which would change the tokenizer that the artifact is checked against.
        processing_class=copy.deepcopy(run.tokenizer),
        peft_config=peft_config,
    )
    if not takes_tokens:
        trainer.train_dataset = rows
    started = time.monotonic()
    trainer.train()
    return trainer.model, time.monotonic() - started

"""Arguments over which transformers stumbles only after the model was loaded, anchors sampled or an epoch trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from transformers import get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from .arguments import QAdapterTrainingArguments


def check_numbers(args: QAdapterTrainingArguments) -> None:
    """Raise `ConfigError` for numbers out of range; it names the field."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(args, name)}")
    for name in ("seed", "data_seed"):
        seed = getattr(args, name)
        if seed is not None and not 0 <= seed < 2**32:
            raise ConfigError(f"{name} must be a whole number from 0 to {2**32 - 1}, got {seed}")
    if args.learning_rate is None or not (math.isfinite(args.learning_rate) and args.learning_rate >= 0):
        raise ConfigError(f"learning_rate must be a finite number of at least 0, got {args.learning_rate}")
    if args.max_steps <= 0 and not (math.isfinite(args.num_train_epochs) and args.num_train_epochs > 0):
        raise ConfigError(f"num_train_epochs must be a finite number above 0, got {args.num_train_epochs:g}")


def check_schedule(args: QAdapterTrainingArguments) -> None:
    """Raise `ConfigError` for a schedule without the arguments that it needs, or with others."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, given = args.lr_scheduler_type, args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(schedule, optimizer, num_warmup_steps=1, num_training_steps=10, scheduler_specific_kwargs=given)
    except (ValueError, TypeError, KeyError) as error:
        name = getattr(schedule, "value", schedule)
        raise ConfigError(
            f"lr_scheduler_type {name} cannot be made with lr_scheduler_kwargs {given}: {error}",
            hint="""lr_scheduler_kwargs is a mapping (on a command line JSON: '{"min_lr_rate": 0.1}')""",
        ) from error


def check_reporters(args: QAdapterTrainingArguments) -> None:
    """Raise `ConfigError` for a `report_to` that transformers does not know, or that is not installed."""
    installed = set(get_available_reporting_integrations())
    for name in [args.report_to] if isinstance(args.report_to, str) else args.report_to or []:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"report_to: unknown {name!r}{did_you_mean(name, INTEGRATION_TO_CALLBACK)}")
        # Of flyte transformers does not say whether it is there.
        if name not in installed and name != "flyte":
            raise ConfigError(f"report_to: {name} is not installed.", hint="install it, or leave report_to at none")


def check_batches(args: QAdapterTrainingArguments, rows: int) -> None:
    """Raise `ConfigError` where the last batch is dropped and there is no other."""
    at_once = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and rows < at_once:
        raise ConfigError(
            f"dataloader_drop_last drops the only batch: there are {rows} pairs and anchors for a batch of {at_once}.",
            hint="leave it out, or lower per_device_train_batch_size",
        )

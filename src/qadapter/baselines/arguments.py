"""What all methods of a comparison share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedTokenizerBase, SchedulerType

from ..data import checked_variables
from ..errors import ConfigError, did_you_mean
from ..model import DEFAULT_MODEL, load_base_tokenizer, lora_config, machine_dtype, training_device

# The frozen weights are multiplied as they are stored, so float16 would need a scaled loss.
_DTYPES = ("bfloat16", "float32")


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CommonArguments:
    """The base, the pairs, the LoRA, the budget and the schedule. Raises `ConfigError`, naming the field."""

    model: str = _meaning("base model: hub id or folder", DEFAULT_MODEL)
    revision: str | None = _meaning("branch, tag or commit of the model on the hub")
    dtype: str = _meaning(
        "storage of the frozen weights: bfloat16 or float32 (default: bfloat16; float32 on a CPU without bfloat16"
        " instructions)",
        "",
    )
    train_file: str = _meaning("preference pairs: .jsonl, .json, .csv, .parquet, or a hub data set id", "")
    style: str | None = _meaning("for DSP raw records: the style whose response is chosen")
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "values for variables of the chat template, such as {enable_thinking: false} for Qwen3"},
    )
    on_bad_row: str = _meaning("what to do about bad rows of data: stop or skip", "stop")
    train_pairs: int | None = _meaning("pairs to train on: the first after a shuffle (default: all)")
    data_seed: int = _meaning("seed of that shuffle; the same pairs for every run", 0)
    max_length: int = _meaning("most tokens of prompt + response; longer responses are cut, prompts never", 1024)
    num_train_epochs: float = _meaning("passes over the training pairs", 1.0)
    per_device_train_batch_size: int = _meaning("pairs per step", 8)
    gradient_accumulation_steps: int = _meaning("batches per step of the optimizer", 1)
    lr_scheduler_type: str = _meaning("learning rate schedule", "cosine")
    warmup_steps: float = _meaning("warm-up steps; below 1 a share of all steps", 0.1)
    weight_decay: float = _meaning("weight decay of AdamW", 0.0)
    max_grad_norm: float = _meaning("gradients are clipped to this norm", 1.0)
    lora_r: int = _meaning("rank of the LoRA", 8)
    lora_alpha: int = _meaning("LoRA scaling: alpha / r", 16)
    lora_dropout: float = _meaning("dropout before the LoRA", 0.0)
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "modules to adapt (default: all linear layers but the LM head)"}
    )
    use_cpu: bool = _meaning("train on the CPU even where there is a GPU", False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chat_template_kwargs", checked_variables(self.chat_template_kwargs))
        if not self.train_file:
            raise ConfigError("train_file is required", hint="a file of preference pairs; see `qadapter data check`")
        if not self.dtype:
            object.__setattr__(self, "dtype", machine_dtype("bfloat16", training_device(self.use_cpu)))
        if self.dtype not in _DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if self.on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row must be stop or skip, got {self.on_bad_row!r}")
        for name, lowest in (
            *(("train_pairs", 1), ("max_length", 2), ("per_device_train_batch_size", 1)),
            *(("gradient_accumulation_steps", 1), ("lora_r", 1)),
        ):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, got {value}")
        if not 0 <= self.data_seed < 2**32:
            raise ConfigError(f"data_seed must be a whole number from 0 to {2**32 - 1}, got {self.data_seed}")
        schedules = [schedule.value for schedule in SchedulerType]
        if self.lr_scheduler_type not in schedules:
            near = did_you_mean(self.lr_scheduler_type, schedules)
            raise ConfigError(f"lr_scheduler_type {self.lr_scheduler_type!r} is unknown{near}")
        if not 0 < self.num_train_epochs < math.inf:
            raise ConfigError(f"num_train_epochs must be finite and above 0, got {self.num_train_epochs}")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer. Raises `ConfigError` or `DataError` where it cannot be had."""
        return load_base_tokenizer(self.model, revision=self.revision, chat_template_kwargs=self.chat_template_kwargs)

    @property
    def lora_config(self) -> LoraConfig:
        """The LoRA that all methods train."""
        return lora_config(self.lora_r, self.lora_alpha, self.lora_dropout, self.lora_target_modules)

"""The fields of `qadapter train` that are no training arguments, and the help of all of them."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from ..data import checked_variables
from ..errors import ConfigError
from ..model import DEFAULT_MODEL
from ..model.quantization import LOAD_IN
from ..train import PRESETS, QAdapterTrainingArguments
from .config import Values, flag_of
from .holdout import check_eval_split

# The frozen weights are multiplied as they are stored: float16 would need a scaled loss.
_DTYPES = ("bfloat16", "float32", "auto")


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class RunArguments:
    """What to train, on what, and what to do about an earlier run. Raises `ConfigError`, naming the flag."""

    model: str = _meaning("base model: hub id or folder", DEFAULT_MODEL)
    train_file: str | None = _meaning("preference pairs: .jsonl, .json, .csv, .parquet, or a hub data set id")
    eval_file: str | None = _meaning(
        "held-out pairs, evaluated at the end (and as --eval-strategy says); of a hub data set its split test"
    )
    eval_split: float | None = _meaning(
        "instead of --eval-file: share (below 1) or number of pairs of the train file, split off by prompt, and "
        "written to heldout.jsonl in --output-dir"
    )
    style: str | None = _meaning("for DSP raw records: the style whose response is chosen")
    config: str | None = _meaning("YAML file with any of these fields; flags win over it")
    resume: bool = _meaning("continue the run in --output-dir from its last complete checkpoint", False)
    overwrite: bool = _meaning("replace the run in --output-dir", False)
    launch: str | None = _meaning(
        "train in several processes: config file of `accelerate launch`, such as recipes/accelerate/ddp.yaml"
    )
    num_processes: int | None = _meaning("with --launch: processes over all machines, instead of the config's number")
    dtype: str = _meaning(
        "storage of the frozen weights: bfloat16, float32, or auto, which is the checkpoint's (default: bfloat16;"
        " float32 on a CPU without bfloat16 instructions)",
        "",
    )
    load_in: str | None = _meaning("store the frozen linear layers in 8bit or 4bit (extra: quantized)")
    device_map: str | None = _meaning("the device that the base is loaded to, such as cuda:1; one has to hold it all")
    revision: str | None = _meaning("branch, tag or commit of the model on the hub")
    trust_remote_code: bool = _meaning("run code that comes with the model", False)
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "values for variables of the chat template, kept with the adapter: a JSON object, such as "
            "'{\"enable_thinking\": false}' for Qwen3"
        },
    )
    attn_implementation: str | None = _meaning("attention of the base model: sdpa, eager, flash_attention_2, ...")

    def __post_init__(self) -> None:
        self.chat_template_kwargs = checked_variables(self.chat_template_kwargs)
        if not self.train_file:
            raise ConfigError("--train-file is required", hint="a file of preference pairs; see `qadapter data check`")
        if self.resume and self.overwrite:
            raise ConfigError("--resume continues a run and --overwrite replaces it: choose one.")
        if self.eval_file and self.eval_split is not None:
            raise ConfigError("--eval-file and --eval-split both name held-out pairs: choose one.")
        if self.eval_split is not None:
            check_eval_split(self.eval_split)
        if self.num_processes is not None and (not self.launch or self.num_processes < 1):
            raise ConfigError(f"--num-processes is for --launch and must be at least 1, got {self.num_processes}")
        if self.dtype and self.dtype not in _DTYPES:
            raise ConfigError(f"--dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if self.load_in is not None and self.load_in not in LOAD_IN:
            raise ConfigError(f"--load-in must be one of {', '.join(LOAD_IN)}, got {self.load_in!r}")
        if self.device_map and self.launch:
            raise ConfigError(
                "--device-map names a device and --launch gives each process its own: choose one.",
                hint="to spread the weights over processes use recipes/accelerate/fsdp2.yaml",
            )
        if not Path(self.model).is_dir() and (self.model.startswith((".", "/", "~")) or self.model.count("/") > 1):
            raise ConfigError(f"--model: no such folder: {self.model}")


TYPES = (RunArguments, QAdapterTrainingArguments)

# A few minutes at most are lost when a run is interrupted; a checkpoint holds the LoRA and its optimizer alone.
COMMAND_DEFAULTS: Values = {"save_steps": 50, "save_total_limit": 2}

# Fields that the seed-for-seed result of a run does not depend on (beyond rounding, for what divides a batch).
MAY_CHANGE_ON_RESUME = {
    *("output_dir", "config", "resume", "overwrite", "run_name", "report_to", "disable_tqdm", "project"),
    # How a step is divided; its size, pairs_per_step, must stay.
    *("launch", "num_processes", "per_device_train_batch_size", "gradient_accumulation_steps", "ddp_timeout"),
    *("auto_micro_batch", "eval_file", "per_device_eval_batch_size", "save_strategy", "save_steps", "save_total_limit"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_revision"),
    *("hub_always_push", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "dataloader_pin_memory"),
    # What saves memory, or keeps batches coming.
    *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
    *("gradient_checkpointing_kwargs", "dataloader_num_workers"),
    "base_cache_dir",
}

GROUPS: dict[str, tuple[str, ...]] = {
    "model": ("model", "revision", "dtype", "load_in", "device_map", "attn_implementation", "trust_remote_code"),
    "data": ("train_file", "eval_file", "eval_split", "style", "chat_template_kwargs", "max_length", "on_bad_row"),
    "run": ("output_dir", "config", "resume", "overwrite", "seed", "launch", "num_processes"),
    "method": (
        *("preset", "parametrization", "alpha_0", "alpha_tilde", "gamma", "chi2_coef", "sft_coef"),
        *("value_state", "length_normalized", "anchors", "anchor_coef"),
    ),
    "LoRA": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    "optimization": (
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "pairs_per_step", "auto_micro_batch"),
        *("activation_checkpointing", "max_grad_norm", "weight_decay", "train_sampling_strategy"),
        *("cache_base", "base_cache_dir"),
    ),
    "evaluation, logging and checkpoints": (
        *("eval_strategy", "eval_steps", "per_device_eval_batch_size", "logging_steps", "save_steps"),
        *("save_total_limit", "report_to", "run_name"),
    ),
}


def default_values() -> Values:
    """The default of every field, those of this command over those of the dataclasses."""
    values: Values = {}
    for one in TYPES:
        for entry in dataclasses.fields(one):
            factory: Any = entry.default_factory
            values[entry.name] = entry.default if factory is dataclasses.MISSING else factory()
    return {name: _plain(value) for name, value in {**values, **COMMAND_DEFAULTS}.items()}


def help_text(*, everything: bool) -> str:
    """The help of `qadapter train`: our fields and the most used ones in groups, or all fields."""
    fields = {entry.name: entry for one in TYPES for entry in dataclasses.fields(one)}
    defaults = default_values()
    groups = dict(GROUPS)
    if everything:
        shown = {name for names in GROUPS.values() for name in names}
        groups["other fields of transformers.TrainingArguments"] = tuple(name for name in fields if name not in shown)
    lines = [
        "usage: qadapter train --train-file FILE --output-dir DIR [--model ID|DIR] [--preset NAME] [--config YAML] ...",
        "",
        "Learn a preference on top of a frozen model. Every flag is also a key of the --config file.",
    ]
    for title, names in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            # transformers writes % as argparse wants it.
            meaning = " ".join(str(fields[name].metadata.get("help", "")).split()).replace("%%", "%")
            if name in PRESETS["default"]:
                values = ", ".join(f"{preset}: {constants[name]}" for preset, constants in PRESETS.items())
                meaning = meaning.replace("(default: from the preset)", f"({values})")
            elif defaults[name] not in (None, "", [], False) and fields[name].default is not dataclasses.MISSING:
                meaning += f" (default: {defaults[name]})"
            lines.append(f"  {flag_of(name)}")
            lines += textwrap.wrap(meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if not everything:
        lines += ["", "All other fields of transformers.TrainingArguments are flags too; --help-all lists them."]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value

"""All arguments of training in one dataclass, for Python, YAML and the command line alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig
from transformers import TrainingArguments

from ..errors import ConfigError
from ..model import QConstants, lora_config
from .argument_checks import check_numbers, check_reporters, check_schedule
from .presets import PRESETS

RUN_CONFIG_FILE = "config.yaml"
"""What a run of `qadapter train` saves its arguments as, beside the adapter."""


def _preset_field(meaning: str) -> Any:
    return field(default=None, metadata={"help": f"{meaning} (default: from the preset)"})


def check_anchors(anchors: int | None, anchor_coef: float | None) -> None:
    """Raise `ConfigError` for a number of anchors that cannot be, or anchors without a weight."""
    if anchors is None or anchors < 0:
        raise ConfigError(f"anchors must be at least 0, got {anchors}")
    if anchors and not anchor_coef:
        raise ConfigError(
            f"{anchors} anchors with anchor_coef {anchor_coef} would be sampled and have no weight.",
            hint=f"anchor_coef {PRESETS['default']['anchor_coef']:g} is the default preset's; anchors 0 leaves "
            "them out",
        )


# Fields of TrainingArguments under which the method would be another one, or that do not work with this trainer.
_REFUSED = {
    "neftune_noise_alpha": "adds other noise to the base's pass than to the adapter's: Q would not be a difference.",
    "label_smoothing_factor": "is for losses over classes; this one is over pairs.",
    "debug": "sets hooks of transformers that measure every tensor, which fails on the masks of a batch of pairs.",
    "fp16": "scales a loss whose gradients pass through frozen weights in float16; use bf16.",
    "bf16_full_eval": "leaves the model where it was loaded until training; the weights' dtype is `dtype`.",
    "fp16_full_eval": "leaves the model where it was loaded until training; the weights' dtype is `dtype`.",
}


@dataclass
class QAdapterTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the method's fields, named as in TRL where the meaning is the same.

    Fields left at None take their value from `preset`. The other defaults that differ from transformers: one epoch,
    a cosine schedule after 10 % warm-up, no weight decay, batches of like length, a log line every 10 steps.

    Raises:
        ConfigError: an unknown preset, or a value out of range; it names the field.
    """

    preset: str = field(default="default", metadata={"help": f"named constants: {', '.join(PRESETS)}"})
    parametrization: str | None = _preset_field("what the adapter's logits mean: residual or logits")
    alpha_0: float | None = _preset_field("weight of the base policy, alpha_0 >= 0")
    alpha_tilde: float | None = _preset_field("entropy temperature of the customized policy, alpha_tilde > 0")
    gamma: float | None = _preset_field("discount per token, 0 to 1")
    chi2_coef: float | None = _preset_field("weight of the squared-reward penalty, >= 0")
    sft_coef: float | None = _preset_field(
        "weight of the chosen response's negative log-likelihood, in units of alpha_tilde, >= 0"
    )
    anchors: int | None = _preset_field(
        "answers of the base to prompts of its own, sampled before training and mixed into the pairs: 0 or more"
    )
    anchor_coef: float | None = _preset_field("weight of the anchors' KL to the base per token, >= 0")
    value_state: str | None = _preset_field(
        "whose value the reward subtracts: of the state after a token (next), or before (same)"
    )
    length_normalized: bool | None = _preset_field("divide a response's return by its number of tokens")
    learning_rate: float | None = _preset_field("peak learning rate of AdamW")
    lora_r: int | None = _preset_field("rank of the LoRA")
    lora_alpha: int | None = _preset_field("LoRA scaling: alpha / r")
    lora_dropout: float | None = _preset_field("dropout before the LoRA")
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "modules to adapt (default: all linear layers but the LM head)"}
    )
    max_length: int = field(
        default=1024,
        metadata={"help": "most tokens of prompt + response; longer responses are cut and bootstrapped, prompts never"},
    )
    pairs_per_step: int | None = field(
        default=None,
        metadata={
            "help": "pairs per step of the optimizer, over all processes; gives gradient_accumulation_steps for any "
            "number of processes (default: batch size x accumulation x processes)"
        },
    )
    auto_micro_batch: bool = field(
        default=False,
        metadata={
            "help": "work through each batch in parts, as large as fit into memory; the optimizer still sees whole "
            "batches, and results agree to rounding"
        },
    )
    on_bad_row: str = field(default="stop", metadata={"help": "what to do about bad rows of data: stop or skip"})

    cache_base: bool = field(
        default=False,
        metadata={"help": "keep on disk what the frozen base contributes to the loss: one pass less from epoch two on"},
    )
    base_cache_dir: str | None = field(
        default=None, metadata={"help": "folder of base caches (default: ~/.cache/qadapter/base-states)"}
    )

    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the training pairs"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=0.1, metadata={"help": "warm-up steps; below 1 a share of all steps"})
    logging_steps: float = field(default=10, metadata={"help": "steps between two log lines"})
    eval_strategy: str = field(default="no", metadata={"help": "when to evaluate: no, steps or epoch"})
    # HfArgumentParser understands this union in this order only.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "tensorboard, trackio, wandb, ... or none"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "kept False: the collator needs all columns"})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "order of the pairs: group_by_length, random or sequential"}
    )

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ConfigError(f"preset must be one of {sorted(PRESETS)}, got {self.preset!r}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row must be stop or skip, got {self.on_bad_row!r}")
        if self.max_length is not None and self.max_length < 2:
            raise ConfigError(f"max_length must be at least 2 (a prompt and a response token), got {self.max_length}")
        if self.lora_r is None or self.lora_r < 1:
            raise ConfigError(f"lora_r must be at least 1, got {self.lora_r}")
        check_anchors(self.anchors, self.anchor_coef)
        check_numbers(self)
        if self.auto_micro_batch and self.auto_find_batch_size:
            raise ConfigError(
                "auto_micro_batch keeps the batch size and auto_find_batch_size of transformers changes it: choose one."
            )
        if self.push_to_hub:
            # The Trainer uploads the output_dir: anchors, held-out pairs and logs, and the adapter at the end alone.
            raise ConfigError(
                "push_to_hub uploads the whole output_dir, the held-out pairs in it too.",
                hint="`qadapter export FOLDER --to hub` uploads the adapter and its card",
            )
        for name, why in _REFUSED.items():
            if getattr(self, name):
                raise ConfigError(f"{name} {why}")
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns must stay False: the collator needs the columns of token ids.")
        if self.train_sampling_strategy not in ("group_by_length", "random", "sequential"):
            raise ConfigError(
                "train_sampling_strategy must be group_by_length, random or sequential, "
                f"got {self.train_sampling_strategy!r}"
            )
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters: bool | None = False  # every factor of the LoRA is used in every pass
        _ = self.constants  # checks the values now, not after the model is loaded
        # The base pass carries no gradient; the reentrant variant would warn about it at every layer.
        if not (self.activation_checkpointing_kwargs or self.gradient_checkpointing_kwargs):
            self.activation_checkpointing_kwargs: dict[str, Any] | str | None = {"use_reentrant": False}
        super().__post_init__()
        check_schedule(self)
        check_reporters(self)
        self._settle_accumulation()

    def _settle_accumulation(self) -> None:
        """Make `pairs_per_step` and `gradient_accumulation_steps` say the same."""
        at_once = self.per_device_train_batch_size * self.world_size
        if self.pairs_per_step is None:
            self.pairs_per_step = at_once * self.gradient_accumulation_steps
            return
        processes = f"{self.world_size} process(es) of {self.per_device_train_batch_size} pairs"
        if self.pairs_per_step < 1 or self.pairs_per_step % at_once:
            raise ConfigError(
                f"pairs_per_step {self.pairs_per_step} cannot be divided among {processes}.",
                hint=f"choose per_device_train_batch_size so that {self.world_size} times it divides pairs_per_step",
            )
        accumulation = self.pairs_per_step // at_once
        if self.gradient_accumulation_steps not in (1, accumulation):
            raise ConfigError(
                f"pairs_per_step {self.pairs_per_step} with {processes} needs gradient_accumulation_steps "
                f"{accumulation}, got {self.gradient_accumulation_steps}.",
                hint="leave one of them out",
            )
        self.gradient_accumulation_steps: int = accumulation

    @property
    def constants(self) -> QConstants:
        """The constants of the method."""
        return QConstants(**{name: getattr(self, name) for name in QConstants.__dataclass_fields__})

    @property
    def lora_config(self) -> LoraConfig:
        """The LoRA described by the `lora_*` fields."""
        return lora_config(
            **{name: getattr(self, f"lora_{name}") for name in ("r", "alpha", "dropout", "target_modules")}
        )


def own_arguments(args: TrainingArguments | None) -> QAdapterTrainingArguments:
    """What a trainer was given as `args`; the defaults where it was given none.

    Raises:
        ConfigError: the arguments of another trainer, such as TRL's `DPOConfig`: they lack the method's constants.
    """
    if args is None:
        return QAdapterTrainingArguments(output_dir="q-adapter")
    if isinstance(args, QAdapterTrainingArguments):
        return args
    beta = getattr(args, "beta", None)
    constants = "..." if beta is None else f"alpha_0={beta}, alpha_tilde={beta}, ..."
    raise ConfigError(
        f"args is a {type(args).__name__}, which has no constants of Q-Adapter.",
        hint=f"give QAdapterTrainingArguments({constants}): it takes the fields of TrainingArguments, and DPO's beta "
        "is alpha_0 = alpha_tilde",
    )

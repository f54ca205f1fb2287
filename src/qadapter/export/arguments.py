"""The flags of each target: a field is a flag."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, did_you_mean


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PeftArguments:
    """At which strength, and on what the approximation is measured. Raises `ConfigError`, naming the flag."""

    strength: float = _meaning(
        "the dial that the export is fixed at, above 0; at 1, with α₀ = α̃, all but rounding is kept", 1.0
    )
    prompts: str | None = _meaning(
        'prompts to measure KL(exact || exported) on, one {"prompt": ...} per line (default: 60 neutral prompts)'
    )

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength > 0):
            hint = "strength 0 is the base model itself" if self.strength == 0 else None
            raise ConfigError(f"--strength must be above 0, got {self.strength:g}", hint=hint)


@dataclass(frozen=True)
class MergedArguments(PeftArguments):
    """As for the plain LoRA, and how the weights are cut into files."""

    max_shard_size: str = _meaning("largest file of weights, such as 500MB", "5GB")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\d+(\.\d+)?(KB|MB|GB|TB)", self.max_shard_size, re.IGNORECASE):
            raise ConfigError(f"--max-shard-size must be a number with KB, MB, GB or TB, got {self.max_shard_size!r}")


@dataclass(frozen=True)
class DistilledArguments(PeftArguments):
    """As for the plain LoRA, and how it is trained."""

    strength: float = _meaning("the dial at which the policy is matched, above 0", 1.0)
    samples: int = _meaning("prompts that the base writes, each answered twice by the mixed policy", 256)
    max_new_tokens: int = _meaning("most tokens of such an answer", 64)
    num_train_epochs: float = _meaning("passes over the samples", 3.0)
    learning_rate: float = _meaning("peak learning rate of AdamW", 1e-3)
    per_device_train_batch_size: int = _meaning("samples per step", 8)
    seed: int = _meaning("of sampling and training", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "max_new_tokens", "num_train_epochs", "learning_rate", "per_device_train_batch_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name):g}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed must be a whole number from 0 to {2**32 - 1}, got {self.seed}")


@dataclass(frozen=True)
class GgufArguments(PeftArguments):
    """Which of llama.cpp's converters, where it is, and in which precision it writes."""

    form: str = _meaning("merged: a whole model; lora: an adapter beside the base's own GGUF", "merged")
    outtype: str = _meaning("precision of the file: f32, f16, bf16, q8_0 or auto (16 bit)", "auto")
    llama_cpp: str | None = _meaning("a checkout of llama.cpp (default: the converter on the PATH)")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--form", self.form, ("merged", "lora"))
        check_choice("--outtype", self.outtype, ("f32", "f16", "bf16", "q8_0", "auto"))


@dataclass(frozen=True)
class VllmArguments:
    """What a request gets that sets nothing, and where the base's weights lie. Raises `ConfigError`."""

    strength: float = _meaning("the dial of a request that sets none", 1.0)
    copy_weights: bool = _meaning("copy the base's weights into the folder instead of linking to them", False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f"--strength must not be negative, got {self.strength:g}")


@dataclass(frozen=True)
class HubArguments:
    """What the card says, and whether anything is pushed at all."""

    dry_run: bool = _meaning("show the card and the files that would be pushed, and push nothing", False)
    public: bool = _meaning("make the repository public (default: private)", False)
    eval: str | None = _meaning(
        "what `qadapter eval --output` wrote, for the table of what was gained and kept (default: ADAPTER/eval.json)"
    )
    data: str | None = _meaning("what the preference pairs are, in words (default: the train file's name)")


def check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` where a value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{flag} must be one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}")

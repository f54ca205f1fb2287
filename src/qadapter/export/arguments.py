"""The flags of each target: a field is a flag."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PeftArguments:
    """At which strength, and on what the approximation is measured. Raises `ConfigError`, naming the flag."""

    strength: float = _meaning("the dial that the export is fixed at, above 0; at 1 the export is exact", 1.0)
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

    max_shard_size: str = _meaning("largest file of weights", "5GB")


@dataclass(frozen=True)
class VllmArguments:
    """What a request gets that sets nothing, and where the base's weights lie. Raises `ConfigError`."""

    strength: float = _meaning("the dial of a request that sets none", 1.0)
    copy_weights: bool = _meaning("copy the base's weights into the folder instead of linking to them", False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f"--strength must not be negative, got {self.strength:g}")

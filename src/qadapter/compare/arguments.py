"""What the config file says of the comparison itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError

INTERPOLATIONS = ("logits", "weights")
FRONTIER_X = ("kl_to_base", "tasks")


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CompareArguments:
    """Which methods, strengths and seeds, and what is drawn. Raises `ConfigError`, naming the field."""

    eval_file: str = _meaning("held-out pairs; their prompts are answered afresh", "")
    output_dir: str = _meaning("receives the runs, the finished jobs and the report", "")
    methods: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "label → {method: NAME, hyperparameters …}; a list of values is a sweep, its best is kept. Beside "
            "them `interpolation` and `label_noise`, for this label alone"
        },
    )
    strengths: list[float] = field(
        default_factory=lambda: [0.5, 1.0],
        metadata={"help": "dials of every method, 1 (what was trained) among them; 0 is the base, always there"},
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "one run of everything for each"})
    label_noise: float | list[float] = field(
        default=0.0, metadata={"help": "share of the training pairs that are flipped; several are as many lines"}
    )
    interpolation: str = _meaning("what the dial scales: logits (of both policies), or the LoRA's weights", "logits")
    reference: str | None = _meaning("the label that others are compared with (default: the first of method dpo)")
    frontier_x: str = _meaning("forgetting: kl_to_base on neutral prompts, or tasks (mean drop)", "kl_to_base")
    frontier_y: str | None = _meaning(
        "behaviour: the name of a judge, or logp_margin (default: the first judge, else logp_margin)"
    )
    x_limit: float | None = _meaning(
        "forgetting up to which the area under the frontier is taken (default: the reference's at strength 1)"
    )

    benchmark_strengths: list[float] | None = field(
        default=None,
        metadata={
            "help": "strengths at which the drawn candidate gets the slow measurements, tasks, plain text and decoding "
            "time (default: all strengths)"
        },
    )

    def __post_init__(self) -> None:
        if not self.eval_file:
            raise ConfigError("eval_file is required", hint="held-out preference pairs")
        if not self.methods:
            raise ConfigError("methods is required", hint="methods: {dpo: {method: dpo}, ours: {method: qadapter}}")
        for strength in self.strengths:
            if not (math.isfinite(strength) and strength >= 0):
                raise ConfigError(f"strengths must be finite and at least 0, got {strength}")
        if 1.0 not in self.strengths:
            raise ConfigError("strengths must hold 1: what was trained, by which the best of a sweep is chosen.")
        if not self.seeds:
            raise ConfigError("seeds must hold at least one number")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise ConfigError(f"seeds must be whole numbers from 0 to {2**32 - 1}, got {seed}")
        for name, values in (("strengths", self.strengths), ("seeds", self.seeds), ("label_noise", self.noises)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} names a value twice: {', '.join(map(str, values))}")
        check_noises(self.noises)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("frontier_x", self.frontier_x, FRONTIER_X)
        if self.benchmark_strengths is not None:
            if self.frontier_x == "tasks":
                raise ConfigError(
                    "frontier_x is tasks: they are measured at all strengths, not at benchmark_strengths."
                )
            if unknown := sorted(set(self.benchmark_strengths) - set(self.strengths)):
                raise ConfigError(f"benchmark_strengths: {unknown[0]:g} is not one of strengths")
        if self.x_limit is not None and not 0 < self.x_limit < math.inf:
            raise ConfigError(f"x_limit must be finite and above 0, got {self.x_limit}")

    @property
    def noises(self) -> list[float]:
        """`label_noise` as a list."""
        return self.label_noise if isinstance(self.label_noise, list) else [self.label_noise]

    @property
    def slow(self) -> list[float]:
        """`benchmark_strengths`, the base's left out."""
        return sorted(set(self.strengths if self.benchmark_strengths is None else self.benchmark_strengths) - {0.0})

    @property
    def dials(self) -> list[float]:
        """The strengths other than the base's and the trained one."""
        return sorted(set(self.strengths) - {0.0, 1.0})


def check_noises(noises: list[float]) -> None:
    """Raise `ConfigError` where a share of flipped pairs is not between 0 and 1, or there is none."""
    if not noises or not all(0 <= noise <= 1 for noise in noises):
        raise ConfigError(f"label_noise must be a share between 0 and 1, got {', '.join(map(str, noises)) or 'none'}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` where a value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")

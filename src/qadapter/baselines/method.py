"""What a method is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConfigError, did_you_mean
from .arguments import CommonArguments


@dataclass(frozen=True)
class Hyperparameter:
    """One number or word that a method takes beside the common arguments."""

    meaning: str
    default: Any = None
    """None: what the meaning says."""
    kind: type = float
    """float, int, str or bool."""
    choices: tuple[str, ...] = ()
    least: float = 0.0
    """Of a number: the smallest that is allowed."""
    above: float = -math.inf
    """Of a number: what it has to lie above."""

    def checked(self, name: str, value: Any) -> Any:
        """The value in its kind; None where that is the default.

        Raises:
            ConfigError: another kind, too small, not finite, or none of the choices.
        """
        if value is None and self.default is None:
            return None
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        number: Any = value
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise ConfigError(f"{name} must be of type {self.kind.__name__}, got {value!r}")
        if self.kind in (int, float) and not number >= self.least:
            raise ConfigError(f"{name} must be at least {self.least:g}, got {value}")
        if self.kind in (int, float) and not self.above < number < math.inf:
            lowest = "" if self.above == -math.inf else f" and above {self.above:g}"
            raise ConfigError(f"{name} must be finite{lowest}, got {value}")
        if self.choices and value not in self.choices:
            question = did_you_mean(str(value), self.choices)
            raise ConfigError(f"{name} must be one of {', '.join(self.choices)}, got {value!r}{question}")
        return value


class Run(NamedTuple):
    """What a method trains on."""

    pairs: Dataset
    """Columns prompt, chosen, rejected; some may be flipped."""
    tokenizer: PreTrainedTokenizerBase
    """The base's, untouched: TRL may set its pad token, so it is handed copies."""
    common: CommonArguments
    hyperparameters: Mapping[str, Any]
    """Every hyperparameter of the method, defaults filled in."""
    seed: int
    output_dir: Path
    """Of this run."""
    shared_dir: Path
    """For what several runs can share, such as answers of the base."""


class Trained(NamedTuple):
    """What came out."""

    model: PreTrainedModel
    """A `QAdapterForCausalLM`, or a sequence classifier where the method makes a reward model."""
    seconds: dict[str, float]
    """By part of the method; loading the base is not among them."""
    pairs: int
    """Pairs seen, over all epochs."""
    parameters: int
    """How many were trained."""


@dataclass(frozen=True)
class Method:
    """A method of the comparison."""

    meaning: str
    """One line."""
    train: Callable[[Run], Trained]
    hyperparameters: Mapping[str, Hyperparameter]
    makes_policy: bool = True
    """False: it makes a reward model, which is no line of a comparison."""
    resolved: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    """The hyperparameters with what they leave to a preset filled in: what determines the result."""
    check: Callable[[CommonArguments, Mapping[str, Any]], None] = lambda common, hyperparameters: None
    """Raises `ConfigError` or `DataError` for what can be known to be wrong before anything is loaded."""


def trained_parameters(model: PreTrainedModel) -> int:
    """How many parameters have gradients."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def optimization(learning_rate: float | None) -> dict[str, Hyperparameter]:
    """The hyperparameters that every method has; a learning rate of None is the preset's."""
    return {
        "learning_rate": Hyperparameter("peak learning rate of AdamW", learning_rate),
        "num_train_epochs": Hyperparameter("passes over the training pairs; default: the common ones", above=0.0),
    }

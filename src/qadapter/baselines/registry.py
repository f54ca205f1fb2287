"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, did_you_mean
from .arguments import CommonArguments
from .method import Method
from .own import QADAPTER
from .policy_gradient import RLOO
from .preference import DPO, IPO, KTO, ORPO
from .reward_model import REWARD
from .supervised import REPLAY, SFT

METHODS: dict[str, Method] = {
    "qadapter": QADAPTER,
    "sft": SFT,
    "replay": REPLAY,
    "dpo": DPO,
    "ipo": IPO,
    "kto": KTO,
    "orpo": ORPO,
    "reward": REWARD,
    "rloo": RLOO,
}


def method_of(name: str) -> Method:
    """The method of a name. Raises `ConfigError`, with the nearest name."""
    if name not in METHODS:
        raise ConfigError(
            f"unknown method {name!r}{did_you_mean(str(name), METHODS)}",
            hint="; ".join(f"{known}: {method.meaning}" for known, method in METHODS.items()),
        )
    return METHODS[name]


def check_job(name: str, given: Mapping[str, Any], common: CommonArguments) -> dict[str, Any]:
    """As `checked_hyperparameters`, and checked against the common arguments.

    Raises:
        QAdapterError: what would be wrong with such a job and can be known before anything is loaded.
    """
    hyperparameters = checked_hyperparameters(name, given)
    method_of(name).check(common, hyperparameters)
    return hyperparameters


def checked_hyperparameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All hyperparameters of a method: those given, checked, over the defaults.

    Raises:
        ConfigError: an unknown method or hyperparameter, with the nearest name, or a value of the wrong kind.
    """
    known = method_of(name).hyperparameters
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{name} has no hyperparameter {key!r}{did_you_mean(str(key), known)}",
                hint="; ".join(f"{one}: {parameter.meaning}" for one, parameter in known.items()),
            )
    defaults = {key: parameter.default for key, parameter in known.items()}
    return defaults | {key: known[key].checked(f"{key} of {name}", value) for key, value in given.items()}

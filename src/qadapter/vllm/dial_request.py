"""The values that one request may set, checked: strength, alpha_0, alpha_tilde."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..model.dial import DIALS, check_mixture, checked_dial
from .served_policy import ServedPolicy

CONFIGURED: list[ServedPolicy] = []
"""Of the engines that this process has configured. vLLM checks a request before it says which engine it is for; where
it is checked in another process, none is known."""


def check_request(extra_args: Mapping[str, Any] | None) -> None:
    """Refuse a request whose values, with the defaults of a folder that is served here, leave no policy.

    Raises:
        ConfigError: as `dials_of_request`; or no policy, or extreme weights.
    """
    dials = dials_of_request(extra_args)
    for policy in CONFIGURED if dials else ():
        check_mixture(policy.mixture(**dials))


def dials_of_request(extra_args: Mapping[str, Any] | None) -> dict[str, float]:
    """Our values among the extra arguments of a request.

    Args:
        extra_args: `SamplingParams.extra_args`, over HTTP `vllm_xargs`. Others' keys are left alone, but one that
            looks like a misspelt one of ours is an error.

    Raises:
        ConfigError: a misspelt name, no number, out of range, or values that leave no policy.
    """
    dials: dict[str, float] = {}
    for name, value in (extra_args or {}).items():
        if name in DIALS:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"{name} must be a number, got {value!r}")
            checked_dial(name, value)
            dials[name] = float(value)
        elif suggestion := did_you_mean(name, DIALS):
            raise ConfigError(f"unknown argument {name!r}{suggestion}")
    if dials.get("strength") == 0.0 and dials.get("alpha_0") == 0.0:
        raise ConfigError("strength 0 with alpha_0 0 leaves no policy: every token would be equally likely.")
    return dials

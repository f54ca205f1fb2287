"""The `methods` of a config file: lines of the frontier, each with the candidates of its sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..baselines import METHODS, CommonArguments, check_job, method_of
from ..baselines.own import constants_of
from ..errors import ConfigError, QAdapterError, did_you_mean
from .arguments import INTERPOLATIONS, CompareArguments, check_choice, check_noises

_OWN_KEYS = ("method", "interpolation", "label_noise")


@dataclass(frozen=True)
class Line:
    """One line of the frontier: one method at one share of label noise."""

    label: str
    method: str
    interpolation: str
    label_noise: float
    candidates: tuple[dict[str, Any], ...]
    """Hyperparameters as given, one set per run of the sweep."""
    swept: tuple[str, ...]
    """Names of those that differ between candidates."""


def lines_of(arguments: CompareArguments, common: CommonArguments) -> list[Line]:
    """The lines in the order of the config file; several shares of noise follow each other.

    Raises:
        ConfigError: an unknown method or hyperparameter, with the nearest name, or a value that makes no sense; with
            the label.
    """
    lines: list[Line] = []
    for label, entry in arguments.methods.items():
        try:
            lines += _lines(str(label), entry, arguments, common)
        except QAdapterError as error:
            raise ConfigError(f"methods: {label}: {error}") from error
    labels = [line.label for line in lines]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"methods: two lines of the frontier have the label {label!r}.")
    return lines


def reference_line(arguments: CompareArguments, lines: list[Line]) -> Line:
    """The line that others are compared with: the named one, or the first DPO without label noise, or the first.

    Raises:
        ConfigError: no line has that label.
    """
    if arguments.reference is not None:
        by_label = {line.label: line for line in lines}
        if arguments.reference not in by_label:
            question = did_you_mean(arguments.reference, by_label)
            raise ConfigError(f"reference: no line has the label {arguments.reference!r}{question}")
        return by_label[arguments.reference]
    return min(lines, key=lambda line: (line.method != "dpo", line.label_noise))


def _lines(label: str, entry: Any, arguments: CompareArguments, common: CommonArguments) -> list[Line]:
    if not isinstance(entry, Mapping) or "method" not in entry:
        raise ConfigError(
            f"must be a mapping with the key `method`, got {entry!r}", hint=f"method is one of {', '.join(METHODS)}"
        )
    method = str(entry["method"])
    if not method_of(method).makes_policy:
        raise ConfigError(
            f"{method} makes a reward model, no policy that could be compared.",
            hint="it can be a judge: reward_model: [FOLDER]",
        )
    given = {str(key): value for key, value in entry.items() if key not in _OWN_KEYS}
    if unknown := [key for key in given if key not in METHODS[method].hyperparameters]:
        known = [*METHODS[method].hyperparameters, *_OWN_KEYS]
        raise ConfigError(f"{method} has no hyperparameter {unknown[0]!r}{did_you_mean(unknown[0], known)}",
                          hint=f"one of {', '.join(known)}")  # fmt: skip
    candidates, interpolation = _sweep(given), entry.get("interpolation", arguments.interpolation)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    for candidate in candidates:
        _check(method, candidate, interpolation, common)
    noise = entry.get("label_noise", arguments.noises)
    noises = noise if isinstance(noise, list) else [noise]
    if not all(isinstance(value, (int, float)) for value in noises):
        raise ConfigError(f"label_noise must be a number or a list of numbers, got {noise!r}")
    check_noises(noises)
    swept = tuple(name for name, value in given.items() if isinstance(value, list))
    return [
        Line(
            label=label if len(noises) == 1 else f"{label}, {100 * value:.3g}% flipped",
            method=method,
            interpolation=interpolation,
            label_noise=float(value),
            candidates=candidates,
            swept=swept,
        )
        for value in noises
    ]


def _sweep(given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Every combination of the values that are lists."""
    for name, value in given.items():
        if isinstance(value, list) and (not value or any(value.count(one) > 1 for one in value)):
            raise ConfigError(f"{name}: a sweep needs different values, got {value}")
    options = [
        [(name, one) for one in (value if isinstance(value, list) else [value])] for name, value in given.items()
    ]
    return tuple(dict(combination) for combination in itertools.product(*options))


def _check(method: str, candidate: dict[str, Any], interpolation: str, common: CommonArguments) -> None:
    hyperparameters = check_job(method, candidate, common)
    if method == "qadapter":
        constants = constants_of(hyperparameters)
        if interpolation == "weights" and tuple(constants.mixture(1.0)) != (1.0, 0.0):
            raise ConfigError(
                f"interpolation of weights needs parametrization residual with alpha_0 = alpha_tilde, got {constants}."
            )

"""One flat YAML and flags, both for the fields of dataclasses.

Values come in layers (a file below the flags), each a dict of field name → checked value; `build` makes the
dataclasses of them. A field is a flag with hyphens or underscores.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..errors import ConfigError, QAdapterError, did_you_mean
from .parser import check_choice, unknown_argument
from .yaml_text import as_written, load_yaml, plain

Values = dict[str, Any]


def parse_config(
    dataclass_types: Sequence[type], argv: Sequence[str], yaml_file: str | Path | None = None
) -> tuple[Any, ...]:
    """Build dataclasses from flags over a YAML file over their defaults.

    Args:
        dataclass_types: the dataclasses; no two share a field.
        argv: the flags.
        yaml_file: a mapping of field names to values.

    Returns:
        One instance per dataclass.

    Raises:
        ConfigError: an unknown or repeated name, a value of the wrong type, a missing one, or what a dataclass itself
            refuses.
    """
    file_values = {} if yaml_file is None else read_yaml(yaml_file, dataclass_types)
    return build(dataclass_types, file_values, parse_flags(dataclass_types, argv))


def build(dataclass_types: Sequence[type], *layers: Mapping[str, Any]) -> tuple[Any, ...]:
    """Build dataclasses from values; a later layer wins over an earlier one. Raises `ConfigError`."""
    merged: Values = {}
    for layer in layers:
        merged.update(layer)
    built = []
    for dataclass_type in dataclass_types:
        mine = {field.name: merged[field.name] for field in _init_fields(dataclass_type) if field.name in merged}
        missing = [
            field.name
            for field in _init_fields(dataclass_type)
            if field.name not in mine
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(f"{flag_of(missing[0])} is required")
        try:
            built.append(dataclass_type(**mine))
        except QAdapterError:
            raise
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(str(error)) from error
    return tuple(built)


def parse_flags(dataclass_types: Sequence[type], argv: Sequence[str]) -> Values:
    """The values of the flags that were given, and of those only.

    Raises:
        ConfigError: an unknown flag, with the nearest known one, or a value of the wrong type.
    """
    as_list: Any = list(dataclass_types)
    parser = _FlagParser(as_list, allow_abbrev=False, add_help=False)
    for action in parser._actions:
        action.required, action.default = False, argparse.SUPPRESS
        if action.type is string_to_bool and action.nargs is None:
            # `--flag` alone also where the default is None.
            action.nargs, action.const = "?", True
    namespace, rest = parser.parse_known_args(list(argv))
    if rest:
        raise unknown_argument(rest, parser._option_string_actions)
    return vars(namespace)


def read_yaml(path: str | Path, dataclass_types: Sequence[type]) -> Values:
    """The values of a YAML file, converted to the types of their fields.

    `no`, `off` and the like are strings, as in YAML 1.2 (`eval_strategy: no`), and `1e-4` is a number; but where the
    field is a text, what stands there is the text (`run_name: 1e-4`).

    Raises:
        ConfigError: no such file, not YAML, not a mapping, an unknown or repeated key, a value of the wrong type; it
            names the file and the key.
    """
    path = Path(path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold one mapping of field names to values, got a {type(content).__name__}")
    hints = {name: hint for one in dataclass_types for name, hint in _hints(one).items()}
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise ConfigError(f"{path}: unknown key {str(key)!r}{did_you_mean(name, hints)}")
        if name in values:
            raise ConfigError(f"{path}: {name!r} appears twice, with a hyphen and with an underscore")
        try:
            values[name] = _converted(value, hints[name])
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{path}: {key} must be {_described(hints[name])}, got {value!r}") from None
    return values


def flag_of(field: str) -> str:
    """The flag of a field, as we write it."""
    return f"--{field.replace('_', '-')}"


class _FlagParser(HfArgumentParser):
    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse's, but that a list which is given in several flags is all of them, and not the last."""
        if options.get("nargs") == "+":
            options.setdefault("action", "extend")
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.replace("argument ", "", 1))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        check_choice(action, value)


def _init_fields(dataclass_type: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(dataclass_type) if field.init]


def _hints(dataclass_type: type) -> dict[str, Any]:
    hints = get_type_hints(dataclass_type)
    return {field.name: hints[field.name] for field in _init_fields(dataclass_type)}


def _options(hint: Any) -> list[Any]:
    """The alternatives of a type hint."""
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _converted(value: Any, hint: Any) -> Any:
    """A YAML value as the type of its field.

    Raises ValueError, TypeError or OverflowError where it is none of the alternatives.
    """
    options = _options(hint)
    kinds = [get_origin(option) or option for option in options]
    if Any in kinds or (value is None and type(None) in kinds):
        return plain(value)
    if isinstance(value, bool):
        if bool not in kinds:
            raise TypeError
        return value
    if isinstance(value, list) and list in kinds:
        (entry,) = get_args(options[kinds.index(list)]) or (Any,)
        return [_converted(item, entry) for item in value]
    if isinstance(value, dict) and dict in kinds:
        return plain(value)
    if not isinstance(value, (int, float, str)):
        raise TypeError
    given, text, value = value, as_written(value), plain(value)
    if type(value) in kinds:
        return value
    for kind in kinds:
        if kind is Literal and value in get_args(options[kinds.index(kind)]):
            return value
    if float in kinds:
        return float(value)
    if int in kinds:
        # int() would cut 1.5 in silence.
        if float(value) != int(float(value)):
            raise ValueError
        return int(float(value))
    if bool in kinds and isinstance(value, str):
        try:
            return string_to_bool(value)
        except argparse.ArgumentTypeError:
            raise ValueError from None
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(value).value
    if str in kinds:
        return text
    if list in kinds:
        return [_converted(given, get_args(options[kinds.index(list)])[0])]
    raise TypeError


def _described(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    names |= {list: "a list", dict: "a mapping"}
    described = []
    for option in _options(hint):
        kind = get_origin(option) or option
        if kind is Literal:
            described.append(f"one of {', '.join(map(str, get_args(option)))}")
        elif isinstance(kind, type) and issubclass(kind, Enum):
            described.append(f"one of {', '.join(str(member.value) for member in kind)}")
        else:
            described.append(names.get(kind, str(kind)))
    return " or ".join(dict.fromkeys(described))

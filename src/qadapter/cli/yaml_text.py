"""YAML 1.2, where a text stays as it was written.

PyYAML reads 1.1: `no` is false there, `0100` is 64, `1:30` is 90, `2026_11_25` and `2026-11-25` are a number and a day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """Read a text; its numbers remember how they were written (`as_written`).

    Raises:
        yaml.YAMLError: no YAML, or a mapping with a repeated key, or with one that is no name.
    """
    return yaml.load(text, Loader=_StrictLoader)


def dump_yaml(values: Mapping[str, Any]) -> str:
    """The text of a mapping. What is a text in it is read as one, here and by readers of YAML 1.1."""
    return yaml.dump(dict(values), Dumper=_QuotingDumper, sort_keys=False, allow_unicode=True)


def as_written(value: Any) -> str:
    """A value where a text is asked for: of a number out of a file, what stood there (`1e-4`, `1.10`)."""
    return value.written if isinstance(value, (_Integer, _Number)) else str(value)


def plain(value: Any) -> Any:
    """A value of a file with Python's own numbers."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, _Integer):
        return int(value)
    return float(value) if isinstance(value, _Number) else value


class _Integer(int):
    written: str


class _Number(float):
    written: str


class _StrictLoader(yaml.SafeLoader):
    """A repeated key is an error, not a silent choice of the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, (dict, list)):
                raise yaml.YAMLError(f"a key must be a name{node.start_mark}")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} appears twice{node.start_mark}")
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: Any) -> _Integer:
        text = self.construct_scalar(node)
        # An explicit tag brings any text here.
        if not _PATTERNS[_INT].match(text):
            raise yaml.YAMLError(f"{text!r} is no integer{node.start_mark}")
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        value = _Integer(int(text, base))
        value.written = text
        return value

    def construct_number(self, node: Any) -> _Number:
        text = self.construct_scalar(node)
        if not _PATTERNS[_FLOAT].match(text):
            raise yaml.YAMLError(f"{text!r} is no number{node.start_mark}")
        value = _Number(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".n", "n").replace(".N", "n"))
        value.written = text
        return value


class _QuotingDumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than a text."""


_BOOL, _INT, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_PATTERNS = {
    _BOOL: re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    _INT: re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    _FLOAT: re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN))$"
    ),
}
_OF_BOTH = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _OF_BOTH]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _first in ((_BOOL, "tTfF"), (_INT, "-+0123456789"), (_FLOAT, "-+0123456789.")):
    _StrictLoader.add_implicit_resolver(_tag, _PATTERNS[_tag], list(_first))
    _QuotingDumper.add_implicit_resolver(_tag, _PATTERNS[_tag], list(_first))
_StrictLoader.add_constructor(_INT, _StrictLoader.construct_integer)
_StrictLoader.add_constructor(_FLOAT, _StrictLoader.construct_number)

"""argparse that raises `ConfigError` instead of exiting, and suggests the nearest name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ..errors import ConfigError, did_you_mean


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are `ConfigError`. Flags are never abbreviated: a typing error is not a guess.

    A command that parses its own flags sets the default `keep_unknown=True`.

    Attributes:
        prepare: changes the arguments before they are parsed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.prepare: Callable[[list[str]], list[str]] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but an unknown argument is an error here, where its nearest flags are known."""
        if self.prepare is not None and args is not None:
            args = self.prepare(list(args))
        namespace, rest = super().parse_known_args(args, namespace)
        if rest and not getattr(namespace, "keep_unknown", False):
            raise unknown_argument(rest, self._option_string_actions)
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise ConfigError(message, hint=f"see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        check_choice(action, value)


def check_choice(action: argparse.Action, value: Any) -> None:
    """Raise `ConfigError` with the nearest choice where the value is none of the choices."""
    if action.choices is not None and value not in action.choices:
        choices = [str(choice) for choice in action.choices]
        what = "command" if isinstance(action, argparse._SubParsersAction) else f"value for {action.option_strings[-1]}"
        raise ConfigError(
            f"unknown {what}: {value!r}{did_you_mean(str(value), choices)}", hint=f"one of {', '.join(choices)}"
        )


def unknown_argument(rest: Sequence[str], options: Iterable[str]) -> ConfigError:
    """The error for arguments that nothing takes; flags match whether written with hyphens or underscores."""
    flag = next((word for word in rest if word.startswith("-") and word != "-"), None)
    if flag is None:
        return ConfigError(f"unexpected argument {rest[0]!r}", hint="quote a text that contains spaces")
    name = flag.split("=")[0]
    known = {option.replace("_", "-") for option in options}
    return ConfigError(f"unknown flag {name}{did_you_mean(name.replace('_', '-'), known)}")

"""The exception tree of qadapter.

Every error that a user can cause is a `QAdapterError`. Its text says what was wrong, what was received and, on a
line of its own that starts with "hint:", the way out. The command line prints that text without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QAdapterError(Exception):
    """Base class of the errors raised for users' input.

    Args:
        message: what was wrong and what was received.
        hint: the way out, printed on its own line.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")


class ConfigError(QAdapterError, ValueError):
    """An argument or a combination of arguments is not valid."""


class DataError(QAdapterError, ValueError):
    """A data file or a row of it cannot be used."""


class ArtifactError(QAdapterError):
    """A saved adapter is damaged, incomplete or does not belong to this base model."""


class UnsupportedModelError(QAdapterError):
    """The base model has a property for which the method is not exact here."""


class BatchTooLargeError(QAdapterError):
    """A batch does not fit into the memory of its device."""


class MissingExtraError(QAdapterError, ImportError):
    """A feature needs a package that is not among the required dependencies.

    Args:
        package: the name of the missing package.
        extra: the extra of qadapter that brings it.
        feature: what needs it.
    """

    def __init__(self, package: str, extra: str, feature: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed.",
            hint=f"pip install -e '.[{extra}]', in the clone of qadapter",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """For the text of an error: a question with the nearest known name, whatever its case, with a space before it.

    Empty where none is near.
    """
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""

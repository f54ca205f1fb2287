"""Which releases of the libraries did a job: they, too, may train and measure otherwise."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("torch", "transformers", "peft", "trl", "lm-eval")


@cache
def library_versions() -> dict[str, str]:
    """Name → version of those that are installed. Taken once: a process goes on with what it has loaded."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""An output folder that is written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from .card import RECORD_FILE


@contextmanager
def new_folder(output: str | Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output`, which becomes `output` when the body ends; it is removed where it fails.

    Args:
        output: the folder to make.
        overwrite: replace an earlier export in it, which stays until the new one is complete.

    Raises:
        ConfigError: it is a file or a mount point, its parent is missing, it is not empty and `overwrite` is False, or
            what it holds is no export (nothing else is ever removed).
    """
    output = Path(output)
    place = output.absolute()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file")
    if not place.parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {place.parent} does not exist.")
    if place.is_mount():
        raise ConfigError(f"--output {output} is a mount point, which cannot be replaced.", hint="name a folder in it")
    if output.is_dir() and any(output.iterdir()):
        if not (output / RECORD_FILE).is_file():
            raise ConfigError(f"--output {output} holds other things than an export.", hint="name another --output")
        if not overwrite:
            raise ConfigError(
                f"--output {output} already holds an export.", hint="--overwrite replaces it, or name another --output"
            )
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as work:
        made = Path(work) / "made"
        made.mkdir()
        yield made
        if place.is_dir():
            place.rename(Path(work) / "replaced")
        made.rename(place)

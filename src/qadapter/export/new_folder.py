"""An output folder that is written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..model.artifact_folder import CONFIG_FILE
from .record import RECORD_FILE, files_in, list_files, listed_files

_NAMED = 5


@contextmanager
def new_folder(output: str | Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output`, which becomes `output` when the body ends; it is removed where it fails.

    Args:
        output: the folder to make.
        overwrite: replace an earlier export in it, which stays until the new one is complete. Its record says which
            files that is.

    Raises:
        ConfigError: it is a file or a mount point, its parent is missing, it is not empty and `overwrite` is False, or
            what it holds is no export, or more than that (nothing else is ever removed).
    """
    output = Path(output)
    place = output.resolve()  # of a link, what it points at
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file")
    if not place.parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {place.parent} does not exist.")
    if place.is_mount():
        raise ConfigError(f"--output {output} is a mount point, which cannot be replaced.", hint="name a folder in it")
    if output.is_dir() and any(output.iterdir()):
        # An artifact that was fetched from the hub has a record, too.
        if not (output / RECORD_FILE).is_file() or (output / CONFIG_FILE).is_file():
            raise ConfigError(f"--output {output} holds other things than an export.", hint="name another --output")
        if not overwrite:
            raise ConfigError(
                f"--output {output} already holds an export.", hint="--overwrite replaces it, or name another --output"
            )
        _refuse_strangers(output)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as work:
        made = Path(work) / "made"
        made.mkdir()
        yield made
        list_files(made)
        if place.is_dir():
            _refuse_strangers(output)  # that came meanwhile
            place.rename(Path(work) / "replaced")
        made.rename(place)


def _refuse_strangers(output: Path) -> None:
    strangers = sorted(files_in(output) - listed_files(output / RECORD_FILE))
    if strangers:
        more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        raise ConfigError(
            f"--output {output} holds files that {RECORD_FILE} does not list as written by the export: "
            f"{', '.join(strangers[:_NAMED])}{more}.",
            hint="--overwrite would remove them: move them elsewhere first, or name another --output",
        )

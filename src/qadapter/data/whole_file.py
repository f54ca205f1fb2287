"""Files that are written whole or not at all, so that a full disk or a kill costs nothing of what they held."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file: beside itself, with the same suffix. It is renamed into its place at the end.

    What is there and no file, such as /dev/stdout, is written as it is; of a link what it points at.

    Raises:
        OSError: it cannot be written; it names the file, which is as it was.
    """
    special = path.exists() and not path.is_file()
    place = path if special else path.resolve()
    # Several processes may write the same file; who looks for finished files by their names finds no hidden one.
    part = path if special else place.with_name(f".part-{os.getpid()}-{place.name}")
    try:
        yield part
        if not special:
            with part.open("rb+") as file:
                os.fsync(file.fileno())  # a power cut leaves the old content or the new, and not an empty file
            part.replace(place)
    except OSError as error:
        # What fails while it is written, as opposed to opened, does not say where.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if not special:
            part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text as UTF-8.

    Raises:
        OSError: as `whole_file`.
    """
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")

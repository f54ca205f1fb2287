"""Files that are written whole or not at all, so that a full disk or a kill costs nothing of what they held."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file beside itself, and rename it into its place.

    Raises:
        OSError: it cannot be written; it names the file, which is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        # What fails while it is written, as opposed to opened, does not say where.
        raise OSError(error.errno, error.strerror, str(path)) from error

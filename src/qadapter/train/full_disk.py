"""The error for a checkpoint that does not fit onto its disk."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import QAdapterError

# Libraries in Rust raise errors of their own with the system's text.
_TEXT = "No space left on device"
# torch raises no more than that a write failed; then what is left of the disk is less than one of its writes.
_TORCH_TEXT, _NOTHING = "inline_container", 16 * 2**20


@contextmanager
def named_full_disk(folder: Path, output_dir: Path) -> Iterator[None]:
    """Run the body, which writes into a folder of a run.

    Args:
        folder: where it writes.
        output_dir: of the run.

    Raises:
        QAdapterError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, QAdapterError) or not _is_full(error, output_dir):
            raise
        raise QAdapterError(
            f"{folder} cannot be written: too little room on the disk ({_free(output_dir) / 2**20:.0f} MiB are free).",
            hint="make room, and go on from the last complete checkpoint: qadapter train --output-dir "
            f"{shlex.quote(str(output_dir))} --resume (in Python: resume_from_checkpoint)",
        ) from error


def _is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return _TEXT in str(error) or (_TORCH_TEXT in str(error) and _free(folder) < _NOTHING)


def _free(folder: Path) -> int:
    folder = folder.resolve()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

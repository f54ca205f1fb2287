"""What several runs can use and none should make twice: files named by the hash of their inputs, written whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def digest_of(inputs: Any) -> str:
    """12 hex digits of the SHA-256 of a JSON value; equal values have equal digests."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file or folder at `path`, made first where it is not there.

    Args:
        path: where it is kept.
        make: writes it at the path that it is given. What it wrote is renamed into place when it returns, so that what
            lies at `path` is complete; an interrupted attempt is begun again.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            make(part)
            part.replace(path)
        finally:
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
    return path

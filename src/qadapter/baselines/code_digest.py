"""Which code did a job. Releases are rare, and between two of them what is measured may change."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .shared_file import digest_of

_PACKAGE = Path(__file__).parents[1]


@cache
def code_digest(package: Path = _PACKAGE) -> str:
    """12 hex digits for the sources of a package, and for the prompts and pairs that come with it.

    Taken once: a process goes on with the modules that it has loaded, whatever is installed meanwhile. A process that
    it starts loads what lies there then, and takes its own.
    """
    files = [path for path in package.rglob("*") if path.suffix in (".py", ".jsonl")]
    return digest_of({path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in files})

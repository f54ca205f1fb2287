"""Which code did a job. Releases are rare, and between two of them what is measured may change."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path

from ..baselines.shared_file import digest_of

# What stands for the code of a job whose file is of before it was noted.
UNKNOWN_CODE = "unknown"

_PACKAGE = Path(__file__).parents[1]


@cache
def code_digest(package: Path = _PACKAGE) -> str:
    """12 hex digits for the sources of a package, and for the prompts and pairs that come with it.

    Taken once: a process goes on with the modules that it has loaded, whatever is installed meanwhile.
    """
    files = [path for path in package.rglob("*") if path.suffix in (".py", ".jsonl")]
    return digest_of({path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in files})


def mixed_code(codes: Collection[str]) -> str | None:
    """A sentence where finished jobs are of different code; such jobs are kept all the same, so that runs go on."""
    if len(codes) < 2:
        return None
    return (
        f"these results mix jobs of {len(codes)} versions of qadapter's code ({', '.join(codes)}), which may measure "
        "differently: to measure anew, remove the folder jobs in the output directory, or those of its files whose "
        '"code" is not wanted, and run the same command again.'
    )

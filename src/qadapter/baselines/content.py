"""What determines a result: files by what they hold instead of where they lie."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from .arguments import CommonArguments


def content_of(value: Any) -> Any:
    """A file as its hash, a folder as those of its files; a list entry by entry, anything else as it is.

    Hidden files do not count: what git and the hub's client keep of a download changes without the content.

    Args:
        value: where a path may stand; text that names nothing on this disk, such as a model's id, stays.
    """
    if isinstance(value, list):
        return [content_of(one) for one in value]
    if isinstance(value, str) and value:
        path = Path(value)
        if path.is_file():
            return _hash_of(path)
        if path.is_dir():
            return {
                str(one.relative_to(path)): _hash_of(one)
                for one in sorted(path.rglob("*"))
                if one.is_file() and not any(part.startswith(".") for part in one.relative_to(path).parts)
            }
    return value


def content_of_base(common: CommonArguments) -> list[Any]:
    """What determines the base policy and the prompts that it is given."""
    known = [content_of(common.model), common.revision, common.dtype]
    # Only where there are any, so that what was finished without them stays so.
    return known if common.chat_template_kwargs is None else [*known, common.chat_template_kwargs]


def content_of_common(common: CommonArguments) -> dict[str, Any]:
    """What determines a result of the common arguments, with the base by its content."""
    known = {**dataclasses.asdict(common), "model": content_of(common.model)}
    return {name: value for name, value in known.items() if (name, value) != ("chat_template_kwargs", None)}


def _hash_of(path: Path) -> dict[str, str]:
    found = path.stat()
    return {"sha256": _sha256(path.resolve(), found.st_size, found.st_mtime_ns)}


@lru_cache(maxsize=1024)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    """Weights are gigabytes, and every run of a comparison names the same ones."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The record of an export: what programs read, which marks a folder as one and lists the files that it wrote."""

from __future__ import annotations

import json
from pathlib import Path

RECORD_FILE = "qadapter_export.json"
"""Marks a folder as an export: only such a folder is ever replaced."""


def files_in(folder: Path) -> set[str]:
    """The files and links in a folder and its subfolders, as paths relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def list_files(folder: Path) -> None:
    """Add the list of files to the record of a folder in which everything else lies already."""
    path = folder / RECORD_FILE
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    record["files"] = sorted(files_in(folder) | {RECORD_FILE})
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def listed_files(path: Path) -> set[str]:
    """What a record lists; itself alone where it lists nothing, as those of before, or cannot be read."""
    try:
        return {RECORD_FILE, *json.loads(path.read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {RECORD_FILE}

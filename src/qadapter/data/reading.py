"""Rows out of files, data sets and the Hugging Face hub, each with the place where it was read."""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from ..errors import DataError
from .pairs import BadRow

Row = dict[str, Any]
Source: TypeAlias = str | Path | list[Row] | datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_MESSAGES = re.compile(r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:")


def read_rows(source: Source, split: str = "train") -> Iterator[tuple[str, Row | BadRow]]:
    """Read a source row by row.

    Args:
        source: a file (.jsonl, .ndjson, .json, .csv, .parquet), a data set, a list of dicts, or the id of a data set
            on the hub.
        split: which split of a hub data set or a `DatasetDict`.

    Returns:
        An iterator over (location, row). A line that is no row comes as a `BadRow`; reading goes on after it.

    Raises:
        DataError: while iterating; the source is missing, empty, of an unknown kind, or damaged as a whole.
    """
    empty = True
    for item in _open(source, split):
        empty = False
        yield item
    if empty:
        raise DataError(f"{describe(source)} holds no rows.", hint="give a source with at least one preference pair")


def describe(source: Source) -> str:
    """The source in words: a file's name, a hub id, or "the data set"."""
    return str(source) if isinstance(source, (str, Path)) else "the data set"


def _open(source: Source, split: str) -> Iterator[tuple[str, Row | BadRow]]:
    if isinstance(source, datasets.DatasetDict):
        if split not in source:
            raise DataError(f"the data set has no split {split!r}.", hint=f"--split one of: {', '.join(source)}")
        source = source[split]
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return _dataset_rows(source, "")
    if isinstance(source, list):
        return _list_rows(source)
    if not isinstance(source, (str, Path)):
        raise DataError(
            f"no pairs can be read from an object of type {type(source).__name__}.",
            hint=f"give a datasets.Dataset, a list of dicts, a file ({_SUFFIXES}) or the id of a data set on the hub",
        )
    path = Path(source)
    if path.is_file():
        if path.suffix.lower() not in _READERS:
            raise DataError(f"{path}: files that end with {path.suffix!r} cannot be read.", hint=f"use {_SUFFIXES}")
        return _READERS[path.suffix.lower()](path)
    if path.is_dir():
        found = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _READERS)
        raise DataError(f"{path} is a folder.", hint=f"name one file: {', '.join(found[:8]) or _SUFFIXES}")
    if path.suffix.lower() in _READERS or not _HUB_ID.fullmatch(str(source)):
        raise DataError(f"no such file: {path}", hint=_near(path) or "check the path")
    return _hub_rows(str(source), split)


def _near(path: Path) -> str | None:
    """A hint that names the files beside a missing one that are spelled like it."""
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=3)
    return f"did you mean {', '.join(str(path.parent / name) for name in close)}?" if close else None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    blank: list[int] = []
    with path.open("rb") as file:
        # A binary file is split on "\n" only: JSON strings may hold U+2028 and others that str.splitlines() breaks at.
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                blank.append(number)
                continue
            for skipped in blank:
                yield _bad(f"{path.name}:{skipped}", "blank line")
            blank.clear()
            location = f"{path.name}:{number}"
            yield location, _json_row(line, location)


def _json_row(line: bytes, location: str) -> Row | BadRow:
    try:
        return _as_row(json.loads(line.rstrip(b"\r\n").decode("utf-8")), location)
    except UnicodeDecodeError as error:
        return BadRow(location, f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRow(location, f"not JSON: {_message(error)} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRow(location, f"not JSON that can be read: {error}")


def _message(error: json.JSONDecodeError) -> str:
    """What was wrong; some of the texts already end with the "at" that comes before the place."""
    return error.msg.removesuffix(" at")


def _as_row(value: Any, location: str) -> Row | BadRow:
    if isinstance(value, dict):
        return _decoded(value, location)
    return BadRow(location, f"not a JSON object but of type {type(value).__name__}")


def _json_rows(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig") or "[]")
    except json.JSONDecodeError as error:
        hint = "if each line is an object of its own, rename the file to .jsonl" if error.msg == "Extra data" else None
        raise DataError(
            f"{path}: not JSON: {_message(error)} at line {error.lineno} column {error.colno}", hint
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read: {error}") from error
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        found = f"an object with {', '.join(map(repr, content))}" if isinstance(content, dict) else repr(rows)[:80]
        raise DataError(f"{path} holds {found}.", hint='write an array of rows, or an object with an array "data"')
    for number, row in enumerate(rows, start=1):
        location = f"{path.name} row {number}"
        yield location, _as_row(row, location)


def _csv_rows(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    limit = csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long conversation
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                lines = list(reader)
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{path}:{reader.line_num}: not CSV in UTF-8: {error}") from error
    finally:
        csv.field_size_limit(limit)
    while lines and not lines[-1]:
        lines.pop()
    header = lines[0] if lines else []
    if len(set(header)) < len(header):
        raise DataError(f"{path}: the header names a column twice: {', '.join(header)}")
    for number, fields in enumerate(lines[1:], start=1):
        location = f"{path.name} row {number}"
        if len(fields) != len(header):
            reason = f"{len(fields)} fields, the header has {len(header)}" if fields else "blank line"
            yield _bad(location, reason)
        else:
            # An empty cell is all that CSV has for both an empty text and no value; rows of one format have the same
            # columns, so it stands for an empty text, which is then reported.
            yield location, _decoded(dict(zip(header, fields, strict=True)), location)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                location = f"{path.name} row {number}"
                yield location, _decoded(row, location)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read (after {number} rows): {error}") from error


def _decoded(row: Row, location: str) -> Row | BadRow:
    """A row with messages that were written as JSON text, as tables write them, turned back into lists."""
    decoded = dict(row)
    for field in ("prompt", "chosen", "rejected", "messages"):
        value = row.get(field)
        if isinstance(value, str) and _MESSAGES.match(value):
            try:
                decoded[field] = json.loads(value)
            except ValueError as error:
                return BadRow(location, f"{field} looks like messages but is not JSON: {error}")
    if "query" in row and isinstance(row.get("responses"), str):
        with contextlib.suppress(ValueError):  # the reader of formats says what it expected
            decoded["responses"] = json.loads(row["responses"])
    return decoded


def _dataset_rows(source: datasets.Dataset | datasets.IterableDataset, name: str) -> Iterator[tuple[str, Row | BadRow]]:
    for number, row in enumerate(source.with_format(None), start=1):
        location = f"{name} row {number}".strip()
        yield location, _decoded(row, location)


def _list_rows(rows: list[Row]) -> Iterator[tuple[str, Row | BadRow]]:
    for number, row in enumerate(rows, start=1):
        location = f"row {number}"
        yield location, _decoded(row, location) if isinstance(row, dict) else BadRow(location, "not a dict")


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, Row | BadRow]]:
    try:
        dataset = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub, the network and loading scripts raise whatever they like
        hint = _near(Path(name)) or f"check the id, the split and the network; for a file, give a path with {_SUFFIXES}"
        raise DataError(f"the data set {name!r}, split {split!r}, cannot be loaded: {error}", hint) from error
    yield from _dataset_rows(dataset, name)


def _bad(location: str, reason: str) -> tuple[str, BadRow]:
    return location, BadRow(location, reason)


_READERS = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
_SUFFIXES = ", ".join(_READERS)

"""Anchors: answers of the base to prompts that a preference says nothing about, as tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .whole_file import write_whole


class Anchor(NamedTuple):
    """Two answers of the base to one prompt."""

    prompt_ids: list[int]
    answer_ids: tuple[list[int], list[int]]
    """Up to and with the end of the turn, or cut."""
    finished: tuple[bool, bool]
    """Whether the answers ended by themselves."""


def write_anchors(path: Path, anchors: Sequence[Anchor]) -> None:
    """Write JSON Lines, whole or not at all."""
    write_whole(path, "".join(json.dumps(anchor._asdict()) + "\n" for anchor in anchors))


def read_anchors(path: Path) -> list[Anchor]:
    """Read what `write_anchors` wrote.

    Raises:
        DataError: the file cannot be read, or is not of that form.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Anchor(row["prompt_ids"], tuple(row["answer_ids"]), tuple(row["finished"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not hold anchors: {error}", hint="remove it: it is sampled again") from error

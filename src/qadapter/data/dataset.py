"""From any source to a `datasets.Dataset` of preference pairs; bad rows stop it or are counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import datasets

from ..errors import ConfigError, DataError
from .columns import unread
from .formats import is_dsp, row_to_pairs
from .pairs import BadRow, PreferencePair
from .reading import Source, describe, read_rows

logger = logging.getLogger(__name__)

PAIR_COLUMNS = ["prompt", "chosen", "rejected", "location"]
"""Of a data set that was read."""

_SHOWN = 5
_MESSAGES = datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})


class Collected(NamedTuple):
    """All that a source holds."""

    rows: int
    """Rows read, bad ones included. A DSP row gives several pairs."""
    pairs: list[PreferencePair]
    bad: list[BadRow]
    unread: list[str]
    """Columns that hold something and were not used, in the order in which they were met."""


def load_preference_dataset(
    source: Source, *, split: str = "train", style: str | None = None, on_bad_row: str = "stop"
) -> datasets.Dataset:
    """Read preference pairs of any supported format.

    Args:
        source: a file (.jsonl, .ndjson, .json, .csv, .parquet), a data set, a list of dicts, or the id of a data set
            on the hub.
        split: which split of a hub data set.
        style: for DSP raw records, the style whose response is chosen.
        on_bad_row: "stop" or "skip".

    Returns:
        A data set with the columns prompt, chosen, rejected (messages or strings, as in the source) and location.

    Raises:
        DataError: the source cannot be read, has bad rows (on "stop") or none but bad rows, or mixes formats.
        ConfigError: another value of on_bad_row.
    """
    _check_on_bad_row(on_bad_row)
    collected = collect_pairs(source, split=split, style=style)
    report_bad_rows(collected.bad, on_bad_row, logger)
    if not collected.pairs:
        raise DataError(f"{describe(source)}: all {collected.rows} rows are bad, no pair is left.")
    if problem := mixed_formats(collected.pairs):
        raise DataError(
            f"{describe(source)}: {problem}", hint="make all of them conversational with `qadapter data convert`"
        )
    text = _MESSAGES if collected.pairs[0].conversational else datasets.Value("string")
    return datasets.Dataset.from_dict(
        {column: [getattr(pair, column) for pair in collected.pairs] for column in PAIR_COLUMNS},
        features=datasets.Features(prompt=text, chosen=text, rejected=text, location=datasets.Value("string")),
    )


def collect_pairs(source: Source, *, split: str = "train", style: str | None = None) -> Collected:
    """Read everything, good and bad, without judging; the arguments are those of `load_preference_dataset`.

    Raises:
        DataError: the source cannot be read, or has DSP rows and no style was given.
    """
    rows, dsp_rows = 0, 0
    pairs: list[PreferencePair] = []
    bad: list[BadRow] = []
    ignored: dict[str, None] = {}
    for location, row in read_rows(source, split):
        rows += 1
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        dsp_rows += is_dsp(row)
        ignored |= dict.fromkeys(unread(row, dsp=is_dsp(row)))
        for result in row_to_pairs(row, location, style):
            if isinstance(result, BadRow):
                bad.append(result)
            else:
                pairs.append(result)
    if style is not None and not dsp_rows:
        logger.warning("style %r has no effect: no row of %s has responses by style.", style, describe(source))
    return Collected(rows, pairs, bad, list(ignored))


def mixed_formats(pairs: Sequence[PreferencePair]) -> str | None:
    """A sentence that says where conversational and standard pairs are mixed; None where they are not."""
    first = {pair.conversational: pair.location for pair in reversed(pairs)}
    if len(first) < 2:
        return None
    return f"conversational pairs (first: {first[True]}) are mixed with standard ones (first: {first[False]})."


def report_bad_rows(bad: Sequence[BadRow], on_bad_row: str, log: logging.Logger) -> None:
    """Stop because of bad rows, or log how many are left out. Nothing happens where there are none.

    Args:
        bad: the rows, from reading or from tokenization.
        on_bad_row: "stop" or "skip".
        log: gets the warning on "skip".

    Raises:
        DataError: on "stop", with the count and the first rows.
        ConfigError: another value of on_bad_row.
    """
    _check_on_bad_row(on_bad_row)
    if not bad:
        return
    count = "1 bad row" if len(bad) == 1 else f"{len(bad)} bad rows"
    lines = [f"  {row}" for row in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  … and {len(bad) - _SHOWN} more")
    if on_bad_row == "stop":
        raise DataError(
            "\n".join([f"{count}:", *lines]),
            hint='correct the data, or leave such rows out with --on-bad-row skip (on_bad_row="skip" in Python)',
        )
    log.warning("skipped %s", "\n".join([f"{count}:", *lines]))


def _check_on_bad_row(on_bad_row: str) -> None:
    if on_bad_row not in ("stop", "skip"):
        raise ConfigError(f"on_bad_row must be 'stop' or 'skip', got {on_bad_row!r}")

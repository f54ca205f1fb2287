"""What `qadapter eval` found, as a table for a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluate.figures import figure_rows
from ..model.artifact_folder import adapter_file_sha256
from .source import Source

DEFAULT_FILE = "eval.json"


def evaluation_section(source: Source, path: str | None) -> str | None:
    """The gained/kept table.

    Args:
        source: the artifact.
        path: what `qadapter eval --output` wrote; default the file `eval.json` in the artifact's folder.

    Returns:
        Markdown with its heading; None where no path is given and there is no such file.

    Raises:
        ConfigError: not a result of `qadapter eval`, or one of another base or another adapter.
    """
    if path is None and not (source.directory / DEFAULT_FILE).is_file():
        return None
    file = source.directory / DEFAULT_FILE if path is None else Path(path)
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        base, *policies = result["policies"]
        rows = figure_rows([policy["difference"] for policy in policies], base)
        of_base = result.get("trained_on", result["base"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is no result of `qadapter eval`: {error!r}", hint="give with --eval what `eval --output` wrote"
        ) from error
    if of_base != source.base_name:
        raise ConfigError(f"{file} is an evaluation on {of_base}; this adapter's base is {source.base_name}.")
    # Results of before it was noted lack it.
    if result.get("adapter_sha256") not in (None, adapter_file_sha256(source.directory)):
        raise ConfigError(
            f"{file} is an evaluation of another adapter than the one that lies in {source.directory} now.",
            hint="measure this one with `qadapter eval`",
        )
    lines: list[str] = []
    for side in ("gained", "kept"):
        of_side = [row for row in rows if row.side == side]
        if of_side:
            header = [side, "base", *(f"strength {policy['strength']:g}" for policy in policies)]
            cells = [[row.label, row.base, *(" ".join(filter(None, cell)) for cell in row.cells)] for row in of_side]
            lines += ["", _row(header), "|" + "---|" * len(header), *map(_row, cells)]
    meanings = [f"- {row.label}: {row.meaning}" for row in rows]
    note = "[low, high]: 95 % interval of the difference to the base, or of the figure where the base has none."
    return "\n".join(["## Gained and kept", *lines, "", note, "", *meanings, ""])


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

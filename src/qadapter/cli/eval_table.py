"""The result of `qadapter eval` as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluate.figures import figure_rows


def table(base: dict[str, Any], policies: Sequence[dict[str, Any]]) -> str:
    """Gained and kept, figure by figure, then what judges failed at and how far they agree.

    Args:
        base: the base's record.
        policies: the customized policies' records with `difference` and `agreement`.
    """
    rows = figure_rows([record["difference"] for record in policies], base)
    strengths = [f"{record['strength']:g}" for record in policies]
    header = ["", "base", *(f"strength {strength}" for strength in strengths)]
    cells = [[row.label, row.base, *(" ".join(filter(None, cell)) for cell in row.cells)] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = []
    for side in ("gained", "kept"):
        of_side = [line for row, line in zip(rows, cells, strict=True) if row.side == side]
        if of_side:
            lines += [_line([side, *header[1:]], widths), *(_line(line, widths) for line in of_side), ""]
    lines += [f"{row.label}: {row.meaning}" for row in rows]
    lines += ["", "[low, high]: 95 % interval of the difference to the base, or of the figure where the base has none."]
    for label, record in zip(["base", *(f"strength {s}" for s in strengths)], [base, *policies], strict=True):
        lines += failures(label, record)
        for name, judge in record.get("judges", {}).items():
            if judge["cost"]:
                counts = ", ".join(f"{key} {value}" for key, value in judge["cost"].items() if value is not None)
                lines.append(f"{label}: {name} took {counts}")
    for strength, record in zip(strengths, policies, strict=True):
        for line in record["agreement"]:
            if line["share"] is not None:
                kappa = "undefined" if line["kappa"] is None else f"{line['kappa']:.2f}"
                lines.append(
                    f"strength {strength}: {' and '.join(line['judges'])} say the same on {line['share']:.0%} of "
                    f"{line['prompts']} prompts (kappa {kappa})."
                )
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def failures(label: str, record: dict[str, Any]) -> list[str]:
    """A line for each judge that gave some answer of a policy no score, with the reason of the first."""
    return [
        f"{label}: {name} failed on {judge['failed']} of {judge['judged'] + judge['failed']} answers; they are not "
        f"counted. The first: {next(n for s, n in zip(judge['items'], judge['notes'], strict=True) if s is None)}"
        for name, judge in record.get("judges", {}).items()
        if judge["failed"]
    ]

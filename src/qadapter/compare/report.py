"""The reports of a comparison: report.html, frontier.png, results.md and results.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from ..data.whole_file import whole_file, write_whole
from .plot import frontier_png, frontier_svg

NOT_REACHED = "not reached"


class Table(NamedTuple):
    """A table of texts."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def write_reports(results: dict[str, Any], folder: Path) -> None:
    """Write all four files, each whole or not at all.

    Args:
        results: from `compare_results`.
        folder: where to; it exists.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: one of them cannot be written; it names the file, which is as it was.
    """
    write_whole(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    with whole_file(folder / "frontier.png") as part:
        frontier_png(results, part)
    tables, facts = tables_of(results), {name: str(value) for name, value in results["facts"].items()}
    write_whole(folder / "results.md", _markdown(tables, facts))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("qadapter", part) for part in ("compare", "evaluate")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("comparison.html.j2").render(
        title="Methods compared: what was gained, what was forgotten",
        frontier=frontier_svg(results),
        caption=_CAPTION,
        tables=tables,
        facts=facts,
    )
    write_whole(folder / "report.html", page)


_CAPTION = (
    "One line per method along its dial, from the base where the dial begins at it; the numbers are strengths, the "
    "large dot is what was trained. Up is more of the preference, left is less forgetting. Bars are 95 % intervals "
    "from a bootstrap over prompts and seeds."
)


def tables_of(results: dict[str, Any]) -> list[Table]:
    """The tables of the page and of results.md."""
    return [_frontier_table(results), _points_table(results), _cost_table(results), _runs_table(results)]


def _frontier_table(results: dict[str, Any]) -> Table:
    shares = [level["share"] for level in results["lines"][0]["equal_behaviour"]]
    limit = results["x_limit"]
    rows = []
    for line in results["lines"]:
        against = line["at_reference"] or {}
        costs = [NOT_REACHED if level["x"] is None else _number(level["x"]) for level in line["equal_behaviour"]]
        drawn = line["intervals"]
        rows.append(
            [
                line["label"], _number(line["area"]) + _ends(drawn["area"], _number), *costs,
                _ratio(against, "ratio", drawn), _ratio(against, "ratio_dialled", drawn),
            ]
        )  # fmt: skip
    reference = results["reference"]
    return Table(
        "The frontier",
        f"Area: the mean gain of behaviour over all budgets of forgetting up to {limit:.4f}, where a budget buys the "
        "best behaviour on the line at or left of it, and budgets are spread as on the axis of the plot. Then the "
        "least forgetting at which a share of the gain that "
        f"{reference} has at strength 1 is reached; and that forgetting at the whole gain, divided by {reference}'s "
        "own: as trained, and with its dial (where the gain is not reached, at the highest behaviour that is). In "
        f"brackets 95 % intervals over prompts and seeds, of the ratios where {reference} gains and forgets anything.",
        ["method", "area", *(f"forgetting at {share:.0%} of the gain" for share in shares),
         f"against {reference} as trained", f"against {reference} dialled"],
        rows,
    )  # fmt: skip


def _points_table(results: dict[str, Any]) -> Table:
    points = [(line["label"], point) for line in results["lines"] for point in line["points"] if point["strength"] > 0]
    points = [("base", results["lines"][0]["points"][0]), *points]
    # The axes stand in columns of their own, and judges that judged everything need none for their failures.
    shown = {f"judges.{results['frontier_y']['name']}", f"retention.{results['frontier_x']['name']}"}
    figures = [point["figures"] for _, point in points]
    names = [
        name
        for name in dict.fromkeys(name for one in figures for name in one)
        if name not in shown and not (name.startswith("judges_failed") and not any(one.get(name) for one in figures))
    ]
    rows = [
        [label, f"{point['strength']:g}", _interval(point["x"]), _interval(point["y"]), _interval(point.get("gain"))]
        + [_number(point["figures"].get(name)) for name in names]
        for label, point in points
    ]
    return Table(
        "All points",
        "Means over seeds, with 95 % intervals of the two axes and of the behaviour gained, prompt by prompt.",
        ["method", "strength", "forgetting", "behaviour", "behaviour gained", *map(_heading, names)],
        rows,
    )


def _cost_table(results: dict[str, Any]) -> Table:
    strengths = list(results["lines"][0]["cost"]["decode_time_vs_base"])
    rows = []
    for line in results["lines"]:
        cost = line["cost"]
        parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in cost["train_seconds_by_part"].items())
        rows.append(
            [
                line["label"], f"{cost['train_seconds']:.0f} s", parts, f"{cost['pairs'] / cost['train_seconds']:.2f}",
                f"{cost['peak_memory_bytes'] / 1e9:.2f} GB", f"{cost['adapter_bytes'] / 1e6:.1f} MB",
                *(_times(cost["decode_time_vs_base"][strength]) for strength in strengths),
            ]
        )  # fmt: skip
    held = {line["cost"]["peak_memory_of"] for line in results["lines"]}
    return Table(
        "Cost",
        "Training time without loading the base; pairs per second over all of it. "
        f"Peak memory of the {' / '.join(sorted(held))} that trains. Decoding: seconds per generated token, divided by "
        "the base's, the two in turn on the same prompts.",
        ["method", "training", "of which", "pairs per second", "peak memory", "adapter",
         *(f"decoding, strength {strength}" for strength in strengths)],
        rows,
    )  # fmt: skip


def _runs_table(results: dict[str, Any]) -> Table:
    rows = [
        [
            run["label"], _settings(run["hyperparameters"]), str(run["seed"]), "yes" if run["drawn"] else "no",
            _number(run["x"]), _number(run["y"]), _number(run["figures"].get("preference.accuracy")),
            f"{sum(run['seconds'].values()):.0f} s",
        ]
        for run in results["runs"]
    ]  # fmt: skip
    edges = [
        f"{line['label']} ({_settings({name: line['hyperparameters'][name] for name in line['at_edge']})})"
        for line in results["lines"]
        if line["at_edge"]
    ]
    return Table(
        "All training runs",
        "At strength 1. Of a sweep that one is drawn whose behaviour is best (mean over seeds; of equal ones the "
        "higher accuracy, then the less forgetting), on the same held-out prompts that the frontier is drawn on: a "
        "little optimistic for every method that was swept."
        + (f" Best at an edge of the sweep, so that a wider one may do better: {'; '.join(edges)}." if edges else ""),
        ["method", "hyperparameters", "seed", "drawn", "forgetting", "behaviour", "pair accuracy", "training"],
        rows,
    )


def _markdown(tables: Sequence[Table], facts: dict[str, str]) -> str:
    lines = ["# Methods compared", "", "![frontier](frontier.png)", "", _CAPTION]
    for table in tables:
        lines += ["", f"## {table.title}", "", table.note, "", _md_row(table.header)]
        lines += ["|" + "---|" * len(table.header), *(_md_row(row) for row in table.rows)]
    lines += ["", "## How this was made", ""]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in facts.items())]) + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _heading(name: str) -> str:
    part, _, figure = name.partition(".")
    if part == "judges_failed":
        return f"not judged by {figure}"
    return figure if part in ("judges", "tasks") else figure.replace("_", " ")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    # Four decimals make nothing of a KL of 0.00004; of sums that should be 0 they rightly do.
    tiny = 1e-9 < abs(value) < 1e-3
    return f"{value:.2g}" if tiny else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def _interval(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    return f"{_number(figure['value'])} ({_number(figure['low'])} to {_number(figure['high'])})"


def _ratio(against: dict[str, Any], name: str, drawn: dict[str, Any]) -> str:
    value = against.get(name)
    if value is not None:
        return _times(value) + _ends(drawn[name], _times)
    if against.get("reached") is not False:
        return "–"
    # The upper end is not reached either.
    low = (drawn[name] or {}).get("low")
    return NOT_REACHED if low is None else f"{NOT_REACHED} (from {_times(low)})"


def _ends(interval: dict[str, float | None] | None, show: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    low, high = (NOT_REACHED if end is None else show(end) for end in (interval["low"], interval["high"]))
    return f" ({low} to {high})"


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _settings(hyperparameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in hyperparameters.items()) or "defaults"

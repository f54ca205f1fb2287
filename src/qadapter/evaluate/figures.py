"""The figures of an evaluation in words: what each is called, how it is written, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_Figure = dict[str, Any]


class FigureRow(NamedTuple):
    """One line of the gained/kept table."""

    side: str
    """gained or kept."""
    label: str
    meaning: str
    base: str
    """The base's value; empty where it has none. Of each strength where they differ: a judge that failed on some
    answers has compared on the others."""
    cells: list[tuple[str, str]]
    """Per strength the value, and the interval: of the difference to the base where there is one (then with the
    difference before it), else of the value. Of a single item there is no interval."""


class _Wording(NamedTuple):
    side: str
    label: str
    meaning: str
    percent: bool = False


def figure_rows(differences: Sequence[dict[str, _Figure]], base: dict[str, Any]) -> list[FigureRow]:
    """The table's lines.

    Args:
        differences: per strength, from `difference_to_base`.
        base: the base's record; it says what the tasks measure.
    """
    rows = []
    for name in dict.fromkeys(name for difference in differences for name in difference):
        found = [difference[name] for difference in differences if name in difference]
        # A judge that failed on other answers at each strength has compared on other prompts.
        wording = _wording(name, _once([str(figure["items"]) for figure in found]), base)
        befores = [figure["base"] for figure in found if figure["base"] is not None]
        rows.append(
            FigureRow(
                side=wording.side,
                label=wording.label,
                meaning=wording.meaning,
                base=_once([_number(before, wording.percent) for before in befores]),
                cells=[_cell(difference.get(name), wording.percent) for difference in differences],
            )
        )
    return sorted(rows, key=lambda row: row.side != "gained")


def _once(values: Sequence[str]) -> str:
    """What all strengths share, once; else that of each."""
    return ", ".join(values if len(set(values)) > 1 else values[:1])


def _cell(figure: _Figure | None, percent: bool) -> tuple[str, str]:
    if figure is None:
        return ("–", "")
    against_base = figure["base"] is not None
    ends = [_number(figure[end], percent, sign=against_base, unit=False) for end in ("low", "high")]
    # Of one document nothing is known about others: its "interval" has no width.
    parts = [f"[{ends[0]}, {ends[1]}]"] if figure["items"] > 1 else []
    if against_base:
        parts.insert(0, _number(figure["difference"], percent, sign=True, unit=False))
    return _number(figure["customized"], percent), " ".join(parts)


def _number(value: float, percent: bool, *, sign: bool = False, unit: bool = True) -> str:
    """As it stands in the table; intervals and differences of shares are in percentage points."""
    plus = "+" if sign else ""
    if percent:
        return f"{100 * value:{plus}.1f}" + (" %" if unit else "")
    if 1e-9 < abs(value) < 1e-2:  # three decimals make nothing of a small KL
        return f"{value:{plus}.2g}"
    return f"{value:{plus}.3f}" if abs(value) < 10 else f"{value:{plus}.1f}"


def _wording(name: str, items: str, base: dict[str, Any]) -> _Wording:
    part, _, figure = name.partition(".")
    if part == "judges":
        kind, _, who = figure.partition(":")
        if kind == "checker":
            return _Wording(
                "gained", f"accepted by {who}", f"share of {items} fresh answers that a program accepts", True
            )
        if kind == "endpoint":
            meaning = f"{items} fresh answers against the base's, both orders; a tie counts one half, 50 % is no change"
            return _Wording("gained", f"win rate, judged by {who}", meaning, True)
        return _Wording("gained", f"reward by {who}", f"mean over {items} fresh answers")
    if part == "tasks":
        if figure == "mean":
            return _Wording("kept", "mean of the tasks", f"{items} questions; each task counts the same", True)
        metric = base["tasks"][figure]["metric"]
        return _Wording("kept", figure, f"{metric} on {items} questions", True)
    if name.startswith("retention.kl."):
        kind = name.removeprefix("retention.kl.")
        return _Wording("kept", f"KL to the base: {kind}", f"nats per token, {items} prompts of this kind")
    wording = _KNOWN[name]
    return wording._replace(meaning=wording.meaning.format(items=items))


_KNOWN = {
    "preference.accuracy": _Wording(
        "gained", "pair accuracy", "of {items} held-out pairs, ranked by the return that Q implies", True
    ),
    "preference.margin": _Wording(
        "gained", "margin of the return", "chosen minus rejected, reward units, {items} pairs"
    ),
    "preference.logp_margin": _Wording(
        "gained", "log-probability margin", "chosen minus rejected, nats, {items} pairs"
    ),
    "preference.logp_chosen": _Wording(
        "gained", "log-probability of chosen", "nats, {items} pairs; a preference can be learned without lowering it"
    ),
    "answers.finished": _Wording("gained", "answers that end by themselves", "of {items} within the token limit", True),
    "answers.repeating": _Wording("kept", "answers that end in a loop", "of {items}: one phrase three times", True),
    "answers.mean_tokens": _Wording("gained", "length of an answer", "tokens, mean of {items}"),
    "retention.kl_to_base": _Wording(
        "kept", "KL to the base", "nats per token, in the first 32 of the base's answers to {items} neutral prompts"
    ),
    "retention.top1_agreement": _Wording("kept", "same most likely token", "on the same tokens", True),
    "text.nats_per_token": _Wording("kept", "nats per token of plain text", "log-perplexity of {items} documents"),
}

"""What the study set out to show, set by set: the table at the top of docs/study.md."""

from __future__ import annotations

from study_figures import cost_of_default
from study_lines import Results, all_methods, line_of, load
from study_tables import NAMES, accuracy_lost, number, table

DEFAULT, OURS = "default", ("default", "paper")


def goals_part(of: Results) -> str:
    """One row per goal, one column per set."""
    sets = of["sets"]
    rows = [
        ["at DPO's own behaviour, at most half of its KL", *(half_of_dpo(one) for one in sets.values())],
        ["(the same with a dial up to 3, or after two passes)", *(further(name) for name in sets)],
        [
            "as far as the default gets, no more KL than any DPO, dialled or not",
            *(any_dpo(one) for one in sets.values()),
        ],
        ["less KL than SFT for what SFT shows", *(versus(one, "SFT") for one in sets.values())],
        ["less KL than Replay for what Replay shows", *(versus(one, "Replay") for one in sets.values())],
        ["no baseline above the default's frontier", *(above(name) for name in sets)],
        [
            "benchmarks within 1 point of the base, or within the noise",
            *(benchmarks(one, DEFAULT) for one in sets.values()),
        ],
        ["(the same of DPO)", *(benchmarks(one, "DPO") for one in sets.values())],
        ["(the same of SFT)", *(benchmarks(one, "SFT") for one in sets.values())],
        ["20 % flipped labels cost no more accuracy than they cost DPO", *(flipped(name) for name in sets)],
    ]
    return table(["", *(NAMES[name] for name in sets)], rows)


def verdict(met: bool, figure: str) -> str:
    """A figure, and whether it is what was set out for."""
    return f"{'met' if met else '**missed**'}: {figure}"


def half_of_dpo(one: Results) -> str:
    """The least KL at which the default shows DPO's behaviour at strength 1, divided by DPO's."""
    found = one["methods"][DEFAULT]
    if one["methods"]["DPO"]["behaviour_gain"] <= 0:
        return "DPO gains nothing"
    if not found["reaches_best_dpo"]:
        return "**missed**: not reached"
    ratio = found["kl_vs_best_dpo_at_equal_behaviour"]
    return verdict(ratio <= 0.5, number(ratio, ".2f") + unclear(one, "DPO"))


def further(name: str) -> str:
    """The same with more strength or training, beside DPO at strength 1 after one epoch; the better of the two."""
    results = load(name, "reach")
    if results is None:
        return "not run"
    lines = [line_of(results, label) for label in (DEFAULT, f"{DEFAULT}, two epochs")]
    ratios = [line["at_reference"]["ratio"] for line in lines if line["at_reference"] is not None]
    known = [ratio for ratio in ratios if ratio is not None]
    return verdict(min(known) <= 0.5, number(min(known), ".2f")) if known else "**missed**: not reached"


def any_dpo(one: Results) -> str:
    """The same at the default's own maximum where that is less, and beside the cheapest DPO."""
    ratio = one["methods"][DEFAULT]["kl_vs_any_dpo_at_equal_behaviour"]
    return "DPO gains nothing" if ratio is None else verdict(ratio <= 1, number(ratio, ".2f"))


def versus(one: Results, label: str) -> str:
    """The least KL at which the default shows a baseline's behaviour at strength 1, divided by the baseline's."""
    other = one["methods"][label]
    if other["behaviour_gain"] <= 0:
        return f"{label} gains nothing"
    ratio = one["methods"][DEFAULT][f"kl_vs_{label.lower()}_at_equal_behaviour"]
    return (
        "**missed**: not reached" if ratio is None else verdict(ratio < 1, number(ratio, ".2f") + unclear(one, label))
    )


def unclear(one: Results, label: str) -> str:
    """Says where the interval of what a method gains holds zero: a ratio at that behaviour says little."""
    low, high = one["methods"][label]["behaviour_gain_interval"]
    return f" (at a gain of {label} within the noise)" if low <= 0 <= high else ""


def above(name: str) -> str:
    """The baselines that show something at less KL than the default, or more than it shows anywhere on its dial."""
    results = all_methods(name)
    assert results is not None
    cheaper, more = [], []
    for line in results["lines"]:
        if line["label"] in OURS:
            continue
        ratios = cost_of_default(line, results)
        at = [f"{strength:g}" for strength, ratio in ratios.items() if ratio is not None and ratio > 1]
        if at:
            cheaper.append(f"{line['label']} (at {', '.join(at)})")
        beyond = [f"{strength:g}" for strength, ratio in ratios.items() if ratio is None]
        if beyond:
            more.append(f"{line['label']} (at {', '.join(beyond)})")
    said = [f"{text} {', '.join(found)}" for text, found in (("less KL:", cheaper), ("more gained:", more)) if found]
    return verdict(not said, "; ".join(said) or "none")


def benchmarks(one: Results, label: str) -> str:
    """The mean change of the benchmarks in points: what was set out for is a drop of 1 at most, or one within noise."""
    found = one["methods"][label]
    change, (low, high) = 100 * found["retention_change"], found["retention_change_interval"]
    figure = f"{change:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return verdict(change >= -1 or low <= 0 <= high, figure) if label == DEFAULT else figure


def flipped(name: str) -> str:
    """The accuracy that 20 % of flipped labels cost the default and DPO."""
    lost = accuracy_lost(name)
    if lost is None:
        return "not run"
    ours, dpo = lost[DEFAULT], lost["DPO"]
    return verdict(ours <= dpo, f"{ours:.3f}, DPO {dpo:.3f}")

"""The tables of docs/study.md."""

from __future__ import annotations

from collections.abc import Callable

from study_figures import figures
from study_lines import SETS, Results, base_behaviour, beside_default, dial_of, line_of, load, loaded, margin, trained

from qadapter.compare.frontier import cost_of
from qadapter.compare.scale import SQUARE_ROOT

NAMES = {
    "academy": "DSP academy", "business": "DSP business", "harmless": "HH harmless", "politeness": "politeness",
    "ultrafeedback": "UltraFeedback",
}  # fmt: skip


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def number(value: float | None, form: str = ".3f") -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else format(value, form)


def points_of(change: float | None, interval: list[float] | None) -> str:
    """A change of a share in points, with its interval."""
    if change is None or interval is None:
        return "–"
    return f"{100 * change:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def per_set(part: str, content: Callable[[str, Results], list[str]]) -> str:
    """What is said of each set on which a part of the study was run, under the set's name."""
    found = [(name, load(name, part)) for name in SETS]
    said = [[f"### {NAMES[name]}", *content(name, results)] for name, results in found if results is not None]
    return "\n\n".join(paragraph for paragraphs in said for paragraph in paragraphs)


def gained(one: Results) -> str:
    """Behaviour gained, with its interval."""
    low, high = one["behaviour_gain_interval"]
    return f"{one['behaviour_gain']:+.2f} [{low:+.2f}, {high:+.2f}]"


def methods_part(of: Results) -> str:
    """One table per set, and the plot."""
    parts = []
    for name, found in of["sets"].items():
        rows = [
            [
                label,
                gained(one),
                f"{one['answers_repeating']:.0%}",
                number(one["answers_tokens"], ".0f"),
                number(one["pair_accuracy"], ".2f"),
                number(one["logp_margin_gain"], "+.1f"),
                number(one["kl_to_base"], ".4f"),
                number(one["kl_vs_best_dpo_at_equal_behaviour"], ".2f"),
                number(one["kl_vs_any_dpo_at_strength_1"], ".2f"),
                number(one["kl_vs_any_dpo_at_equal_behaviour"], ".2f"),
                number(one["kl_documents_vs_any_dpo_at_equal_behaviour"], ".2f"),
                number(one["kl_of_default_vs_its_own"], ".2f"),
                "more" if one["default_reaches"] is False else number(one["kl_of_default_vs_its_own_at_worst"], ".2f"),
                points_of(one["retention_change"], one["retention_change_interval"]),
            ]
            for label, one in found["methods"].items()
        ]
        head = ["method", "behaviour gained", "answers in a loop", "tokens", "pair accuracy", "log-prob margin gained",
                "KL to the base", "KL ÷ DPO's", "÷ any DPO's at 1", "÷ any DPO's at most", "the same on documents",
                "default's KL ÷ its", "at worst on its dial", "benchmarks, points"]  # fmt: skip
        parts += [
            f"### {NAMES[name]}",
            f"{found['pairs']} pairs. The judge ranks {found['judge']['accuracy']:.0%} of the held-out pairs as their "
            f"labels do; to their chosen responses it gives {found['judge']['chosen']:.2f}, to the rejected "
            f"{found['judge']['rejected']:.2f}, to \"I'm sorry, I can't help with that.\" "
            f"{found['judge']['refusal']:.2f}. Of the base's answers {found['base_answers_repeating']:.0%} end in a "
            f"loop; they have {found['base_answers_tokens']:.0f} tokens on average. Over all points of the dials, "
            f"behaviour and the tokens of the answers correlate at {found['behaviour_correlates_with_tokens']:+.2f}.",
            table(head, rows),
            f"![Frontier: behaviour against forgetting on {NAMES[name]}](study/{name}.png)",
        ]
        if beside_default(name) is not None:
            parts.append(f"![Frontier of the other baselines on {NAMES[name]}](study/{name}.others.png)")
    return "\n\n".join(parts)


def variants_part(part: str) -> str:
    """What differs in a constant, at strength 1."""

    def content(_: str, results: Results) -> list[str]:
        rows = [
            [
                line["label"],
                gained(one),
                f"{one['answers_repeating']:.0%}",
                number(one["pair_accuracy"], ".2f"),
                number(one["logp_margin_gain"], "+.1f"),
                number(one["kl_to_base"], ".4f"),
                number(trained(line)["figures"]["retention.kl.document"], ".4f"),
            ]
            for line in results["lines"]
            for one in [figures(line, results)]
        ]
        head = ["", "behaviour gained", "answers in a loop", "pair accuracy", "log-prob margin gained",
                "KL to the base", "on documents"]  # fmt: skip
        return [table(head, rows)]

    return per_set(part, content)


def dial_part(part: str) -> str:
    """What a stronger dial, longer or faster training reaches; and benchmarks at strength 1, where there are some."""

    def content(_: str, results: Results) -> list[str]:
        strengths = [point["strength"] for point in results["lines"][0]["points"] if point["strength"]]
        found = [figures(line, results) for line in results["lines"]]
        changes = [points_of(one["retention_change"], one["retention_change_interval"]) for one in found]
        with_benchmarks = any(one["retention_change"] is not None for one in found)
        rows = [
            [
                line["label"],
                *map(bought, line["points"][1:]),
                ratio(line),
                *([change] if with_benchmarks else []),
            ]
            for line, change in zip(results["lines"], changes, strict=True)
        ]
        head = ["", *(f"strength {strength:g}" for strength in strengths), f"KL ÷ {results['reference']}'s"]
        return [table([*head, *(["benchmarks, points"] if with_benchmarks else [])], rows)]

    return per_set(part, content)


def bought(point: Results) -> str:
    """Behaviour gained, the KL that it takes, and the answers that end in a loop, where there are some."""
    loops = point["figures"]["answers.repeating"]
    return f"{point['gain']['value']:+.2f} at {point['x']['value']:.3f}" + (f", {loops:.0%} loop" if loops else "")


def ratio(line: Results) -> str:
    """KL at the reference's behaviour, divided by its own, with the interval where the file has one."""
    beside = line["at_reference"]
    if beside is None or beside["ratio"] is None:
        return "–"
    # Files of before intervals were taken have none.
    ends = line.get("intervals", {}).get("ratio")
    return number(beside["ratio"], ".2f") + (
        f" [{number(ends['low'], '.2f')}, {number(ends['high'], '.2f')}]" if ends else ""
    )


def noise_part() -> str:
    """Flipped labels."""

    def content(_: str, results: Results) -> list[str]:
        rows = [
            [
                line["label"].split(",")[0],
                f"{line['label_noise']:.0%}",
                number(trained(line)["figures"]["preference.accuracy"], ".3f"),
                f"{trained(line)['gain']['value']:+.2f}",
                number(trained(line)["x"]["value"], ".4f"),
            ]
            for line in results["lines"]
        ]
        head = ["method", "labels flipped", "pair accuracy", "behaviour gained", "KL to the base"]
        return [table(head, rows), f"Means over seeds {results['facts']['seeds']}."]

    return per_set("noise", content)


FLIPPED = ("pairs", "brakes", "lighter")
"""The parts that measure what 20 % of flipped labels cost, on many pairs."""


def accuracy_lost(name: str) -> dict[str, float] | None:
    """The pair accuracy that flipped labels cost each method, mean over seeds; None where it has not been measured."""
    lines = [line for part in loaded(name, *FLIPPED) for line in part["lines"]]
    accuracy = {line["label"]: trained(line)["figures"]["preference.accuracy"] for line in lines}
    methods = [line["label"].partition(", ") for line in lines if line["label_noise"]]
    return {m: accuracy[f"{m}, 0% flipped"] - accuracy[f"{m}, {flipped}"] for m, _, flipped in methods} or None


def pairs_part() -> str:
    """What flipped labels cost in accuracy, on many pairs."""

    def content(name: str, results: Results) -> list[str]:
        parts, lost = loaded(name, *FLIPPED), accuracy_lost(name)
        assert lost is not None
        lines, runs = ([one for part in parts for one in part[key]] for key in ("lines", "runs"))
        rows = []
        for line in lines:
            method, _, flipped = line["label"].partition(", ")
            seeds = [run["figures"]["preference.accuracy"] for run in runs if run["label"] == line["label"]]
            mean = trained(line)["figures"]["preference.accuracy"]
            rows.append(
                [
                    method,
                    flipped.removesuffix(" flipped"),
                    f"{mean:.3f} ({', '.join(f'{one:.3f}' for one in seeds)})",
                    f"{lost[method]:.3f}" if line["label_noise"] else "",
                    f"{trained(line)['figures']['preference.logp_margin'] - margin(results):+.1f}",
                ]
            )
        head = ["method", "labels flipped", "pair accuracy (by seed)", "fell by", "log-prob margin gained"]
        return [f"Held-out pairs: {results['facts']['held-out pairs']}.", table(head, rows)]

    return per_set("pairs", content)


def rates_part() -> str:
    """DPO at every learning rate that was measured, strength 1; and the least KL at which the default gains as much."""

    def content(name: str, more: Results) -> list[str]:
        methods = load(name, "methods")
        assert methods is not None
        default, start = dial_of(line_of(methods, "default")), base_behaviour(methods)

        def of_default(gain: float, forgotten: float) -> str:
            cost = cost_of(default, start + gain, SQUARE_ROOT) if gain > 0 else None
            return number(None if cost is None else cost / forgotten, ".2f")

        runs = [
            (run["hyperparameters"]["learning_rate"], run["y"] - base_behaviour(results), run)
            for results in (methods, more)
            for run in results["runs"]
            if run["label"] == "DPO"
        ]
        rows = [
            [
                f"{rate:g}",
                f"{gain:+.2f}",
                f"{run['figures']['answers.repeating']:.0%}",
                number(run["figures"]["preference.accuracy"], ".2f"),
                number(run["x"], ".4f"),
                number(run["figures"]["retention.kl.document"], ".4f"),
                of_default(gain, run["x"]),
            ]
            for rate, gain, run in sorted(runs, key=lambda one: one[0])
        ]
        head = ["learning rate", "behaviour gained", "answers in a loop", "pair accuracy", "KL to the base",
                "on documents", "default's KL ÷ its"]  # fmt: skip
        return [table(head, rows)]

    return per_set("rates", content)


def cost_part() -> str:
    """What each method costs."""

    def content(_: str, results: Results) -> list[str]:
        rows = []
        for line in results["lines"]:
            cost = line["cost"]
            parts_of_time = cost["train_seconds_by_part"]
            rows.append(
                [
                    line["label"],
                    f"{parts_of_time['training'] / cost['pairs']:.2f}",
                    f"{sum(parts_of_time.values()) - parts_of_time['training']:.0f}",
                    f"{cost['peak_memory_bytes'] / 1e9:.1f}",
                    *(f"{value:.2f}" for value in cost["decode_time_vs_base"].values()),
                    f"{cost['adapter_bytes'] / 1e6:.1f}",
                ]
            )
        head = ["method", "training, s per pair", "before training, s", "peak memory, GB", "decoding at 0.5, ÷ base",
                "at 1, ÷ base", "adapter, MB"]  # fmt: skip
        return [f"{results['facts']['pairs per run']} pairs:", table(head, rows)]

    return per_set("cost", content)

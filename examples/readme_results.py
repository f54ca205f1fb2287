"""Write the "Measured" part of the README from the result files, so that no figure in it is typed by hand.

python examples/readme_results.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
START = "<!-- results: made by `python examples/readme_results.py`, from the result files -->"
END = "<!-- end of results -->"


def measured() -> str:
    """The Markdown between the two marks."""
    demo = json.loads((ROOT / "results" / "demo.json").read_text(encoding="utf-8"))
    counts = demo["counts"]
    rows = [
        ("fresh answers that fulfil the preference, of " + str(counts["answered_prompts"]), "fulfilment"),
        ("held-out preference accuracy, " + str(counts["heldout_pairs"]) + " pairs", "preference_accuracy"),
        ("multiple-choice probe, " + str(counts["probe_questions"]) + " questions", "retention_probe"),
    ]
    lines = [
        f"`make demo` on 2 CPU cores: {demo['seconds']:.0f} s in all, of which {demo['train_seconds']:.0f} s training "
        f"on {counts['train_pairs']} pairs; at most {demo['peak_memory_gb']:.1f} GB of memory "
        "([results/demo.json](results/demo.json); reproduce with `make demo`).",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {label} | {demo[key]['before']:.1%} | {demo[key]['after']:.1%} |" for label, key in rows),
        f"| KL to the base on neutral prompts, nats per token | 0 | {demo['kl_to_base']:.3f} |",
        "",
        "The demo trains with larger steps, a smaller α and lighter anchors than the default preset: it has some "
        "hundred steps to change what the model answers. Most neutral prompts are chat requests too, and brevity shows "
        "on them; on plain documents "
        f"the KL is {demo['kl_by_kind']['document']:.3f}.",
        "",
        "Along the dial: "
        + "; ".join(
            f"strength {point['strength']:g}: {point['fulfilment']:.1%} fulfilled at KL {point['kl_to_base']:.3f}"
            for point in demo["by_strength"]
        )
        + ".",
    ]
    plain = json.loads((ROOT / "results" / "demo-float32.json").read_text(encoding="utf-8"))
    lines += [
        "",
        "That was in bfloat16, with a CPU that has AVX-512 instructions for it. "
        "Two cores without such instructions compute in float32: "
        f"{plain['seconds'] / 60:.0f} minutes, {plain['peak_memory_gb']:.1f} GB, {plain['fulfilment']['after']:.1%} "
        f"fulfilled at KL {plain['kl_to_base']:.3f}, probe {plain['retention_probe']['after']:.1%} "
        "([results/demo-float32.json](results/demo-float32.json)). With other rounding other anchors were sampled: "
        "that is how far two runs can differ.",
    ]
    lines += ["", *studied()]
    speed = ROOT / "benchmarks" / "results" / "latest-cpu.json"
    if speed.exists():
        result = json.loads(speed.read_text(encoding="utf-8"))
        figures = result["figures"]
        gpu = (ROOT / "benchmarks" / "results" / "latest-gpu.json").exists()
        ours, cached = figures["train_speed_vs_trl"], figures["train_speed_vs_trl_cached"]
        mixed, folded = figures["decode_time_vs_base"], figures["decode_time_vs_base_folded"]
        lines += [
            "",
            f"Speed and memory on the same pairs and batches ({result['hardware']['threads']} CPU cores, SmolLM2-135M, "
            f"pairs of HH-RLHF, rows up to {result['config']['max_row']} tokens, bfloat16; without anchors and without "
            "the likelihood of the chosen response, at commit "
            f"{result['commit'][:7]}, {result['date'][:10]}): training runs "
            f"at {ours:.1f}× the pairs per second of TRL's DPOTrainer "
            f"({cached:.1f}× with `--cache-base`, from the second epoch on) with "
            f"{figures['train_memory_vs_trl']:.2f}× its peak memory; for one request a token decoded at strength 0.5 "
            f"takes {mixed:.2f}× the base's time (in batches of 8 {batched()}), {folded:.2f}× after `fold()` "
            "([benchmarks](benchmarks/README.md); reproduce with `make bench PAIRS=FILE`)."
            + ("" if gpu else " No GPU has been measured yet."),
            "",
            *with_anchors(),
        ]
    return "\n".join(lines)


def with_anchors() -> list[str]:
    """What training costs with the default's anchors: beside TRL, in the demo's comparison, beside our own DPO."""
    cost = json.loads((ROOT / "study" / "results" / "academy.cost.json").read_text(encoding="utf-8"))
    ours, dpo = (
        next(line["cost"]["train_seconds_by_part"] for line in cost["lines"] if line["label"] == label)
        for label in ("default", "DPO")
    )
    demo = json.loads((ROOT / "results" / "compare_demo.json").read_text(encoding="utf-8"))["lines"]
    seconds = {line["method"]: line["cost"]["train_seconds"] for line in demo}
    return [
        f"Anchors cost time before and during training. With the default's, in {cost['facts']['dtype']} on "
        f"{cost['facts']['pairs per run']} pairs, training is "
        f"{dpo['training'] / ours['training']:.1f}× as fast as TRL's DPOTrainer, "
        f"{dpo['training'] / sum(ours.values()):.1f}× "
        "with the sampling of the anchors ([docs/study.md](docs/study.md#what-it-costs)); in "
        "[recipes/compare_demo.yaml](recipes/compare_demo.yaml), with more anchors for fewer pairs, ours took "
        f"{seconds['qadapter']:.0f} s in all and DPO {seconds['dpo']:.0f} s. Beside DPO in our own trainer, on the "
        f"sets above, the default with its anchors takes {beside_own_dpo()} of the time.",
    ]


def batched() -> str:
    """The range of decoding time at strength 1/2 ÷ the base's on batches of prompts, over all methods measured."""
    files = (ROOT / "study" / "results" / "academy.cost.json", *sorted((ROOT / "results").glob("compare_demo*.json")))
    lines = [line for file in files for line in json.loads(file.read_text(encoding="utf-8"))["lines"]]
    found = [line["cost"]["decode_time_vs_base"]["0.5"] for line in lines]
    return f"{min(found):.1f} to {max(found):.1f}×"


def beside_own_dpo() -> str:
    """The range over the sets of the study of the default's training time ÷ that of the median DPO of the same run."""
    found = []
    for file in sorted((ROOT / "study" / "results").glob("*.methods.json")):
        runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
        ours, dpo = (
            [sum(run["seconds"].values()) for run in runs if run["label"] == name] for name in ("default", "DPO")
        )
        found.append(statistics.median(ours) / statistics.median(dpo))
    return f"{min(found):.1f} to {max(found):.1f}×"


def gained(one: dict[str, Any]) -> str:
    """Behaviour gained, with its interval."""
    low, high = one["behaviour_gain_interval"]
    return f"{one['behaviour_gain']:+.3f} [{low:+.2f}, {high:+.2f}]"


def studied() -> list[str]:
    """What the study says of the default preset beside DPO and SFT."""
    sets = json.loads((ROOT / "study" / "summary.json").read_text(encoding="utf-8"))["sets"]
    rows = [
        f"| {name} | {label} | {gained(one)} "
        f"| {one['answers_repeating']:.0%} | {one['answers_tokens']:.0f} | {one['kl_to_base']:.3f} "
        f"| {'–' if (ratio := one['kl_vs_best_dpo_at_equal_behaviour']) is None else f'{ratio:.2f}'} "
        f"| {100 * one['retention_change']:+.1f} |"
        for name, found in sets.items()
        for label, one in found["methods"].items()
        if label in ("default", "DPO", "SFT")
    ]
    pairs = max(found["pairs"] for found in sets.values())
    return [
        f"On public preference sets, after one pass over at most {pairs} pairs, beside "
        "DPO and SFT with the best of three learning rates each; the default's constants were chosen on three of these "
        "sets, and DPO's best rate is often the largest that was tried ([docs/study.md](docs/study.md) says how it was "
        "measured, and where we fall short; a dash: that behaviour is "
        "not reached, or DPO gained nothing to reach). Where DPO's gain is within its interval of nothing, the ratio "
        "says little: on business a DPO with a smaller learning rate gains nearly as much, at less KL than the default "
        "needs for that. On harmless the judge rewards short refusals as such.",
        "",
        "| set | method | behaviour gained | answers in a loop | tokens | KL to the base "
        "| KL at DPO's behaviour ÷ DPO's | benchmarks, points |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{measured()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

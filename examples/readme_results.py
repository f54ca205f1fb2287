"""Write the "Measured" part of the README from the result files, so that no figure in it is typed by hand.

python examples/readme_results.py
"""

from __future__ import annotations

import json
from pathlib import Path

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
        "That was in bfloat16, with a CPU that has instructions for it. Two cores without them compute in float32: "
        f"{plain['seconds'] / 60:.0f} minutes, {plain['peak_memory_gb']:.1f} GB, {plain['fulfilment']['after']:.1%} "
        f"fulfilled at KL {plain['kl_to_base']:.3f}, probe {plain['retention_probe']['after']:.1%} "
        "([results/demo-float32.json](results/demo-float32.json)). Other rounding samples other anchors: so much do "
        "two runs differ.",
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
            f"rows up to {result['config']['max_row']} tokens; anchors, which count as pairs, left out): training runs "
            f"at {ours:.1f}× the pairs per second of TRL's DPOTrainer "
            f"({cached:.1f}× with `--cache-base`, from the second epoch on) with "
            f"{figures['train_memory_vs_trl']:.2f}× its peak memory; a token decoded at strength 0.5 takes "
            f"{mixed:.2f}× the base's time, {folded:.2f}× after `fold()` "
            "([benchmarks](benchmarks/README.md); reproduce with `make bench PAIRS=FILE`)."
            + ("" if gpu else " No GPU has been measured yet."),
        ]
    return "\n".join(lines)


def studied() -> list[str]:
    """What the study says of the default preset beside DPO and SFT."""
    sets = json.loads((ROOT / "study" / "summary.json").read_text(encoding="utf-8"))["sets"]
    rows = [
        f"| {name} | {label} | {one['behaviour_gain']:+.3f} | {one['answers_repeating']:.0%} | {one['kl_to_base']:.3f} "
        f"| {'–' if (ratio := one['kl_vs_best_dpo_at_equal_behaviour']) is None else f'{ratio:.2f}'} "
        f"| {100 * one['retention_change']:+.1f} |"
        for name, found in sets.items()
        for label, one in found["methods"].items()
        if label in ("default", "DPO", "SFT")
    ]
    pairs = max(found["pairs"] for found in sets.values())
    return [
        f"On public preference sets, after one pass over at most {pairs} pairs, beside "
        "DPO and SFT with the best of three learning rates each ([docs/study.md](docs/study.md) says how it was "
        "measured, and where we fall short; a dash: that behaviour is "
        "not reached, or DPO gained nothing to reach):",
        "",
        "| set | method | behaviour gained | answers in a loop | KL to the base | KL at DPO's behaviour ÷ DPO's "
        "| benchmarks, points |",
        "|---|---|---|---|---|---|---|",
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

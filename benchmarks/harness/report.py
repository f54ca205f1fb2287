"""Result files, and the table and the plot that are made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

START, END = (
    "<!-- results: made by `python benchmarks/report.py` from results/latest-*.json -->",
    "<!-- end of results -->",
)

BARS: dict[str, tuple[str, str, float, float | None]] = {
    # figure: (meaning, direction, bar, aim)
    "train_speed_vs_trl": ("training, pairs/s against TRL DPOTrainer", "≥", 2.0, 3.0),
    "train_speed_vs_trl_cached": ("… with the base cache, from the second epoch on", "≥", 2.6, 4.0),
    "train_memory_vs_trl": ("training, peak memory against TRL", "≤", 0.5, 0.35),
    "train_speed_vs_dense": ("training, pairs/s against the dense two-pass objective", "≥", 3.0, None),
    "train_memory_vs_dense": ("training, peak memory against the dense objective", "≤", 0.35, None),
    "decode_time_vs_base": ("decoding, time per token against the base, strength 0.5", "≤", 1.35, 1.1),
    "decode_time_vs_base_folded": ("… ρ = 1, strength 1, adapter folded in", "≤", 1.03, 1.0),
    "matmul_peak_share": ("training, share of the measured matmul peak", "≥", 0.45, 0.6),
}
GPU_BARS = {"decode_time_vs_base": 1.2}


def save(folder: Path, result: dict[str, Any], *, complete: bool) -> list[Path]:
    """Write a run's JSON; a complete run also becomes the latest, and the README is made anew."""
    results = folder / "results"
    results.mkdir(exist_ok=True)
    stamp = result["date"].replace(":", "").replace("-", "")
    text = json.dumps(result, indent=1) + "\n"
    written = [results / f"{stamp}-{result['device']}{'' if complete else '-part'}.json"]
    if complete:
        written.append(results / f"latest-{'gpu' if result['device'] == 'cuda' else 'cpu'}.json")
    for path in written:
        path.write_text(text, encoding="utf-8")
    if complete:
        written += update_readme(folder)
    return written


def latest(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest result of each kind of device."""
    found = {}
    for device in ("cpu", "gpu"):
        path = folder / "results" / f"latest-{device}.json"
        if path.is_file():
            found[device] = json.loads(path.read_text(encoding="utf-8"))
    return found


def update_readme(folder: Path) -> list[Path]:
    """Put the table of the newest results into README.md, and draw the plot."""
    readme, plot = folder / "README.md", folder / "results" / "latest.svg"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{START}\n\n{table(folder)}\n\n{END}{after}", encoding="utf-8")
    _draw(latest(folder), plot)
    return [readme, plot]


def table(folder: Path) -> str:
    """The Markdown between the two marks."""
    found = latest(folder)
    lines = []
    for device in ("cpu", "gpu"):
        if device not in found:
            lines += [f"**{device.upper()}**: not measured yet, so none of its figures is known.", ""]
            continue
        result = found[device]
        where = ", ".join(f"{key} {_short(value)}" for key, value in result["hardware"].items())
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
        lines += [
            f"**{device.upper()}** ({where}; {versions}; commit {result['commit']}, {result['date'][:10]}, "
            f"{result['seconds'] / 60:.0f} minutes):",
            "",
            "| figure | | measured | bar | aim |",
            "|---|---|---|---|---|",
        ]
        for name, value in result["figures"].items():
            meaning, sign, bar, aim = BARS.get(name, ("", "", None, None))
            if device == "gpu":
                bar = GPU_BARS.get(name, bar)
            met = "" if bar is None else (" ✓" if (value >= bar if sign == "≥" else value <= bar) else " **missed**")
            shown = "" if bar is None else f"{sign} {bar:g}"
            lines.append(f"| `{name}` | {meaning} | {value:.3g}{met} | {shown} | {'' if aim is None else f'{aim:g}'} |")
        for name, reason in result["not_measured"].items():
            lines.append(f"| `{name}` | {BARS.get(name, ('',))[0]} | not measured: {reason} | | |")
        lines += [""]
    if found:
        lines += ["![the subjects side by side](results/latest.svg)"]
    return "\n".join(lines).strip()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "qadapter"
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(len(results), 3, figsize=(12, 3.2 * len(results)), squeeze=False)
    for row, (device, result) in zip(grid, results.items(), strict=True):
        training, decoding = (result["measurements"][part] for part in ("training", "decoding"))
        bars = [
            ("training, pairs/s", training["pairs_per_second"], 1.0),
            ("training, peak memory in GB", training["peak_bytes"], 1e-9),
            ("decoding, ms per token", decoding["seconds_per_token"], 1e3),
        ]
        for axes, (title, values, unit) in zip(row, bars, strict=True):
            names = sorted(values, key=lambda name: values[name])
            colours = ["#1f77b4" if name in _OURS else "#b0b0b0" for name in names]
            drawn = axes.barh(
                [name.replace("_", " ") for name in names], [values[n] * unit for n in names], color=colours
            )
            axes.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
            axes.set_title(f"{device.upper()}: {title}", fontsize=10)
            axes.margins(x=0.18)
            axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


_OURS = {"qadapter", "qadapter_cached", "qadapter_checkpointing", "mixed", "one_pass", "folded"}

"""From study/results/*.json: study/summary.json, the plots of docs/study.md, and its tables.

python study/summarize.py
"""

from __future__ import annotations

import json
from pathlib import Path

from study_figures import summary
from study_goals import goals_part
from study_lines import SETS, beside_default, load
from study_tables import cost_part, dial_part, methods_part, noise_part, pairs_part, rates_part, variants_part

from qadapter.compare.plot import frontier_png

ROOT = Path(__file__).parents[1]
PAGE, PLOTS = ROOT / "docs" / "study.md", ROOT / "docs" / "study"


def plots() -> None:
    """The frontiers of each set."""
    PLOTS.mkdir(exist_ok=True)
    for name in SETS:
        for results, file in ((load(name, "methods"), f"{name}.png"), (beside_default(name), f"{name}.others.png")):
            if results is not None:
                frontier_png(results, PLOTS / file)


def page(text: str) -> str:
    """The page with its tables made anew."""
    made = {
        "goals": goals_part(summary()),
        "methods": methods_part(summary()),
        "constants": variants_part("constants"),
        "cut": variants_part("cut"),
        "faster": dial_part("faster"),
        "reach": dial_part("reach"),
        "likelihood": dial_part("likelihood"),
        "helpful": dial_part("helpful"),
        "noise": noise_part(),
        "pairs": pairs_part(),
        "rates": rates_part(),
        "cost": cost_part(),
    }
    for part, content in made.items():
        start, end = f"<!-- {part}: made by `python study/summarize.py` -->", f"<!-- end of {part} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n\n{content}\n\n{end}{after}"
    return text


def main() -> None:
    """Write all of it."""
    (ROOT / "study" / "summary.json").write_text(json.dumps(summary(), indent=1) + "\n", encoding="utf-8")
    plots()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

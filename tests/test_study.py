"""What docs/study.md and study/summary.json say is what the result files hold."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qadapter.compare.frontier import Point, area_under
from qadapter.compare.frontier_figures import frontier_figures
from qadapter.compare.scale import scale_of

STUDY = Path(__file__).parents[1] / "study"


@pytest.fixture
def summarize(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDY))  # as for `python study/summarize.py`
    spec = importlib.util.spec_from_file_location("summarize", STUDY / "summarize.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_no_figure_of_the_study_is_typed_by_hand(summarize: ModuleType) -> None:
    text = summarize.PAGE.read_text(encoding="utf-8")
    assert text == summarize.page(text), "run: python study/summarize.py"
    assert json.loads((STUDY / "summary.json").read_text(encoding="utf-8")) == summarize.summary()


RESULTS = [*STUDY.glob("results/*.*.json"), *STUDY.parent.glob("results/compare*.json")]


@pytest.mark.parametrize(
    "path", [path for path in RESULTS if not path.name.endswith(".judge.json")], ids=lambda p: p.name
)
def test_areas_and_costs_are_those_of_the_points_beside_them(path: Path) -> None:
    results = json.loads(path.read_text(encoding="utf-8"))
    scale = scale_of(results["frontier_x"]["name"])
    points = {
        line["label"]: {one["strength"]: Point(one["x"]["value"], one["y"]["value"]) for one in line["points"]}
        for line in results["lines"]
    }
    reference = points[results["reference"]]
    for line in results["lines"]:
        own = list(points[line["label"]].values())
        again = frontier_figures(own, list(reference.values()), reference[1], scale)
        assert {name: line[name] for name in again} == again
        assert line["area"] == pytest.approx(area_under(own, results["x_limit"], scale), abs=1e-12)


def test_every_set_has_its_plot(summarize: ModuleType) -> None:
    sets = summarize.summary()["sets"]
    assert sets
    for name, found in sets.items():
        assert (summarize.PLOTS / f"{name}.png").is_file()
        assert (summarize.PLOTS / f"{name}.others.png").is_file() == (summarize.beside_default(name) is not None)
        assert {"default", "paper", "DPO"} <= found["methods"].keys()


def test_further_baselines_are_drawn_beside_the_default(summarize: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = sys.modules["study_figures"]

    def part(*labels: str) -> dict[str, object]:
        return {"reference": "DPO", "lines": [{"label": label} for label in labels]}

    found = {
        "methods": part("paper", "default", "DPO", "SFT"),
        "others": part("DPO", "KTO"),
        "rloo": part("DPO", "RLOO"),
    }
    monkeypatch.setattr(figures, "load", lambda _, name: found.get(name))
    drawn = summarize.beside_default("academy")
    assert [line["label"] for line in drawn["lines"]] == ["default", "DPO", "KTO", "RLOO"]
    del found["others"], found["rloo"]
    assert summarize.beside_default("academy") is None

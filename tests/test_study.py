"""What docs/study.md and study/summary.json say is what the result files hold."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qadapter.compare.frontier import Dial, Point, area_under
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
    dials = {
        line["label"]: Dial(
            [Point(one["x"]["value"], one["y"]["value"]) for one in line["points"]], line["dial_from_base"]
        )
        for line in results["lines"]
    }
    (reference,) = [line for line in results["lines"] if line["label"] == results["reference"]]
    trained = dials[reference["label"]].points[[one["strength"] for one in reference["points"]].index(1)]
    for line in results["lines"]:
        own = dials[line["label"]]
        again = frontier_figures(own, dials[reference["label"]], trained, scale)
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
    lines = sys.modules["study_lines"]
    drawn = [line["label"] for line in summarize.beside_default("business")["lines"]]
    assert drawn[:6] == ["default", "DPO", "RPO", "IPO", "KTO", "ORPO"]
    load = lines.load
    monkeypatch.setattr(lines, "load", lambda name, part: load(name, part) if part == "methods" else None)
    assert summarize.beside_default("business") is None


@pytest.mark.parametrize("name", ["business", "ultrafeedback"])
def test_further_baselines_stand_beside_the_base_and_the_dpo_of_the_table(summarize: ModuleType, name: str) -> None:
    """Their runs had a base and a DPO of their own, in another precision."""
    lines = sys.modules["study_lines"]
    methods, others = lines.load(name, "methods"), lines.load(name, "others")
    merged = {line["label"]: line for line in lines.all_methods(name)["lines"]}
    assert merged["DPO"] == lines.reference_of(methods)
    assert lines.base_behaviour(methods) != lines.base_behaviour(others)
    for own in others["lines"][1:]:
        line = merged[own["label"]]
        assert line["points"][0]["y"]["value"] == pytest.approx(lines.base_behaviour(methods))
        for point in line["points"][1:]:
            assert point["y"]["value"] - lines.base_behaviour(methods) == pytest.approx(point["gain"]["value"])
        beside, gain = line["at_reference"], lines.trained(merged["DPO"])["gain"]["value"]
        assert beside["reached"] == (max(point["gain"]["value"] for point in line["points"][1:]) >= gain)
        if beside["reached"]:
            assert beside["reference_x"] == lines.trained(merged["DPO"])["x"]["value"]
    said = summarize.summary()["sets"][name]["methods"]["RPO"]
    rpo = lines.line_of(others, "RPO")
    wider = lines.trained(rpo)["figures"]["preference.logp_margin"] - others["base"]["preference.logp_margin"]
    assert said["logp_margin_gain"] == pytest.approx(wider)

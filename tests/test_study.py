"""What docs/study.md and study/summary.json say is what the result files hold."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qadapter.compare.frontier import Dial, Point, area_under
from qadapter.compare.frontier_figures import frontier_figures
from qadapter.compare.scale import scale_of

STUDY = Path(__file__).parents[1] / "study"


@pytest.fixture
def summarize(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDY))  # as for `python study/summarize.py`
    return loaded("summarize")


def loaded(name: str) -> ModuleType:
    """A script of the study as a module."""
    spec = importlib.util.spec_from_file_location(name, STUDY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_no_figure_of_the_study_is_typed_by_hand(summarize: ModuleType) -> None:
    text = summarize.PAGE.read_text(encoding="utf-8")
    assert text == summarize.page(text), "run: python study/summarize.py"
    assert json.loads((STUDY / "summary.json").read_text(encoding="utf-8")) == summarize.summary()


def test_of_many_pairs_whole_lines_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("{1}\n{2}\n{3}\n", encoding="utf-8")
    first = loaded("run").first
    assert [len(list(first(path, characters))) for characters in (3, 4, 11, 12, 99)] == [0, 1, 2, 3, 3]
    assert list(first(path, 11)) == ["{1}\n", "{2}\n"]


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


def goals(summarize: ModuleType, found: dict[str, Any]) -> dict[str, list[str]]:
    """The rows of the table of goals by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in summarize.goals_part(found).splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_a_goal_that_is_missed_says_so(summarize: ModuleType) -> None:
    found = summarize.summary()
    names = list(found["sets"])
    default, dpo, sft = (found["sets"]["business"]["methods"][label] for label in ("default", "DPO", "SFT"))
    default |= {"reaches_best_dpo": True, "kl_vs_best_dpo_at_equal_behaviour": 0.5}
    default |= {"kl_vs_any_dpo_at_equal_behaviour": 1.0, "kl_vs_sft_at_equal_behaviour": 0.99}
    default |= {"retention_change": -0.01, "retention_change_interval": [-0.02, -0.001]}
    for one in (dpo, sft):
        one |= {"behaviour_gain": 0.1, "behaviour_gain_interval": [0.05, 0.15]}

    def cells() -> list[str]:
        made = goals(summarize, found)
        wanted = ("at DPO's own", "as far as", "less KL than SFT", "benchmarks")
        return [row[names.index("business")] for name, row in made.items() if name.startswith(wanted)]

    assert cells() == ["met: 0.50", "met: 1.00", "met: 0.99", "met: -1.0 [-2.0, -0.1]"]
    default |= {"kl_vs_best_dpo_at_equal_behaviour": 0.51, "kl_vs_any_dpo_at_equal_behaviour": 1.01}
    default |= {"kl_vs_sft_at_equal_behaviour": 1.0, "retention_change": -0.011}
    assert cells() == ["**missed**: 0.51", "**missed**: 1.01", "**missed**: 1.00", "**missed**: -1.1 [-2.0, -0.1]"]
    default |= {"retention_change_interval": [-0.03, 0.001]}
    assert cells()[-1] == "met: -1.1 [-3.0, +0.1]"
    default |= {"reaches_best_dpo": False, "kl_vs_sft_at_equal_behaviour": None}
    assert [cells()[0], cells()[2]] == ["**missed**: not reached"] * 2
    dpo["behaviour_gain_interval"] = sft["behaviour_gain_interval"] = [-0.01, 0.2]
    default |= {"reaches_best_dpo": True, "kl_vs_sft_at_equal_behaviour": 0.5}
    assert [cells()[0], cells()[2]] == [
        "**missed**: 0.51 (at a gain of DPO within the noise)", "met: 0.50 (at a gain of SFT within the noise)"
    ]  # fmt: skip
    dpo["behaviour_gain"] = sft["behaviour_gain"] = 0.0
    assert [cells()[0], cells()[2]] == ["DPO gains nothing", "SFT gains nothing"]


def test_flipped_labels_are_held_against_what_they_cost_dpo(
    summarize: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {"default": 0.03, "DPO": 0.03}
    monkeypatch.setattr(sys.modules["study_goals"], "accuracy_lost", lambda name: lost if name == "academy" else None)
    (row,) = [row for name, row in goals(summarize, summarize.summary()).items() if name.startswith("20 %")]
    assert row == ["met: 0.030, DPO 0.030", *["not run"] * 4]
    lost["default"] = 0.031
    (row,) = [row for name, row in goals(summarize, summarize.summary()).items() if name.startswith("20 %")]
    assert row[0] == "**missed**: 0.031, DPO 0.030"


def test_a_baseline_above_the_defaults_frontier_is_named_with_its_strengths(summarize: ModuleType) -> None:
    """On every set, from the points alone."""
    lines = sys.modules["study_lines"]
    found = summarize.summary()
    (row,) = [row for name, row in goals(summarize, found).items() if name.startswith("no baseline")]
    for name, cell in zip(found["sets"], row, strict=True):
        results = lines.all_methods(name)
        default = lines.line_of(results, "default")["points"]
        most = max(point["y"]["value"] for point in default)
        for line in results["lines"]:
            if line["label"] in ("default", "paper"):
                assert f"{line['label']} (at" not in cell
                continue
            beyond = [f"{one['strength']:g}" for one in line["points"] if one["y"]["value"] > most]
            _, _, further = cell.partition("more gained: ")
            assert (f"{line['label']} (at {', '.join(beyond)})" in further) == bool(beyond)
        assert cell.startswith("met: none") != cell.startswith("**missed**: ")

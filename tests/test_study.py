"""What docs/study.md and study/summary.json say is what the result files hold."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

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


def test_every_set_has_its_plot(summarize: ModuleType) -> None:
    sets = summarize.summary()["sets"]
    assert sets
    for name, found in sets.items():
        assert (summarize.PLOTS / f"{name}.png").is_file()
        assert {"default", "paper", "DPO"} <= found["methods"].keys()

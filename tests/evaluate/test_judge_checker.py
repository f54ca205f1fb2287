"""A Python function as the judge."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from qadapter.errors import ConfigError
from qadapter.evaluate.judges import Checker, Verdict, mean_score
from qadapter.evaluate.judges.named_function import load_function
from qadapter.generate import Answer

PROMPT = [{"role": "user", "content": "say yes"}]


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, [], True) for text in texts]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a module of checks; the paths and modules are as before afterwards."""
    (tmp_path / "judge_checks.py").write_text(
        "LIMIT = 3\n"
        "def is_brief(text):\n    from judge_neighbour import words\n    return words(text) <= LIMIT\n"
        "def is_polite(text):\n    return 'please' in text\n"
    )
    (tmp_path / "judge_neighbour.py").write_text("def words(text):\n    return len(text.split())\n")
    (tmp_path / "judge_broken.py").write_text("import judge_absent_dependency\n")
    (tmp_path / "judge_script.py").write_text("raise SystemExit(1)\n")
    (tmp_path / "judge_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("judge_"):
            del sys.modules[name]


def test_answers_are_checked_and_unfinished_ones_count_as_not_fulfilled() -> None:
    given = [*answers("yes"), Answer("yes", [], False), *answers("no", "yes")]
    verdicts = Checker(lambda text: text == "yes").judge([PROMPT] * 4, given)
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 0.0, 1.0]
    assert mean_score(verdicts) == 0.5


def test_a_checker_of_two_sees_the_prompt_and_may_return_a_share() -> None:
    def overlap(prompt: list[dict[str, str]], answer: str, case: bool = False) -> float:
        asked = set(prompt[-1]["content"].split())
        return len(asked & set(answer.split())) / len(asked)

    checker = Checker(overlap)
    assert checker.judge([PROMPT] * 3, answers("yes", "say yes", "no")) == [Verdict(0.5), Verdict(1.0), Verdict(0.0)]
    assert checker.name == "checker:overlap"


@pytest.mark.parametrize(("returned", "score"), [(True, 1.0), (numpy.bool_(False), 0.0), (1, 1.0), (0.25, 0.25)])
def test_what_a_checker_may_return(returned: Any, score: float) -> None:
    assert Checker(lambda text: returned).judge([PROMPT], answers("x")) == [Verdict(score)]


@pytest.mark.parametrize("returned", [None, "yes", [], 1.5, -0.1, float("nan"), float("inf")])
def test_what_it_may_not_return(returned: Any) -> None:
    with pytest.raises(ConfigError, match="returned"):
        Checker(lambda text: returned).judge([PROMPT], answers("x"))


def test_a_checker_of_three_sees_answers_that_did_not_end() -> None:
    given = [*answers("yes"), Answer("yes", [], False)]
    verdicts = Checker(lambda prompt, text, finished: 0.9 if finished else 0.4).judge([PROMPT] * 2, given)
    assert verdicts == [Verdict(0.9), Verdict(0.4)]


def test_a_checker_that_raises_has_failed_on_that_answer() -> None:
    verdicts = Checker(lambda text: 1 / len(text) > 0).judge([PROMPT] * 2, answers("", "x"))
    assert verdicts == [Verdict(None, "ZeroDivisionError: division by zero"), Verdict(1.0)]
    assert mean_score(verdicts) == 1.0
    with pytest.raises(ValueError, match="no answer"):
        mean_score(verdicts[:1])


@pytest.mark.parametrize(
    "function", [lambda: True, lambda a, b, c, d: True, lambda a=1: True, lambda *, a: True, lambda **a: True]
)
def test_other_signatures_are_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match=r"of \(answer\), \(prompt, answer\) or \(prompt, answer, finished\)"):
        Checker(function)


def test_a_function_of_the_current_folder_may_import_its_neighbours_late(folder: Path) -> None:
    checker = Checker(load_function("judge_checks:is_brief"), "judge_checks:is_brief")
    assert checker.name == "checker:judge_checks:is_brief"
    assert [v.score for v in checker.judge([PROMPT] * 2, answers("one two", "one two three four"))] == [1.0, 0.0]


def test_the_current_folder_hides_no_installed_package(folder: Path) -> None:
    sys.modules.pop("colorsys", None)
    (folder / "colorsys.py").write_text("def rgb_to_hsv(text):\n    return True\n")
    assert load_function("colorsys:rgb_to_hsv")(0, 0, 1) == (2 / 3, 1, 1)


def test_a_function_of_an_installed_package() -> None:
    assert load_function("qadapter.demo.checker:brief_with_follow_up")("So it is. Why?")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("judge_check:is_brief", r"no module 'judge_check'.*\n.*judge_checks"),
        ("judge_checks:is_breif", r"'is_breif' in judge_checks \(.*judge_checks.py\) does not exist.*\n.*is_brief"),
        ("judge_checks:LIMIT", r"'LIMIT' in judge_checks .* is no function but of type int"),
        ("qadapter.demo.chequer:f", r"no module 'qadapter.demo.chequer'.*\n.*qadapter\.demo\.checker"),
        ("qadaptor.demo.checker:f", r"no module 'qadaptor'.*\n.*qadapter"),
        ("json.decoder.deeper:f", r"no module 'json.decoder.deeper'"),
        ("judge_broken:f", r"'judge_broken' cannot be imported: No module named 'judge_absent_dependency'"),
        ("judge_script:f", r"'judge_script' cannot be imported: SystemExit"),
        ("judge_syntax:f", r"'judge_syntax' cannot be imported: SyntaxError"),
        *[
            (name, "module:function")
            for name in ("judge_checks", "judge_checks.py:f", "a b:c", "x:", ":x", "a:b:c", "")
        ],
    ],
)
def test_a_wrong_name_says_what_is_near(folder: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_function(name)

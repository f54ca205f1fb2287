"""A checker's module counts by what it does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qadapter.compare.fingerprint import evaluation_inputs
from qadapter.evaluate import EvaluationArguments
from qadapter.evaluate.judges import JudgeArguments

PLAIN = """
LIMIT = 3

class Words:
    many = None

async def later(text):
    return text

def short(text):
    return len(text.split()) < LIMIT
"""
DOCUMENTED = '''# How long is too long?
"""The checker."""
LIMIT = 3  # words

class Words:
    """Of a text."""

    many = None


async def later(text):
    """Not now."""
    return text


def short(text):
    """Whether there are few."""
    # White space parts words.
    return (
        len(text.split()) < LIMIT
    )
'''


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """What stands for a checker with this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(text: str) -> Any:
        (tmp_path / "counted_checker.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        judging = JudgeArguments(checker=["counted_checker:short"])
        return evaluation_inputs(EvaluationArguments(), judging, with_benchmarks=False)["checker_source"]

    return of


def test_comments_docstrings_and_layout_do_not_count(counted: Callable[[str], Any]) -> None:
    assert counted(DOCUMENTED) == counted(PLAIN)


@pytest.mark.parametrize(
    ("before", "after"),
    [("LIMIT = 3", "LIMIT = 4"), ("< LIMIT", "<= LIMIT"), ("many = None", "many = ..."), ("text.split()", "text")],
)
def test_what_it_does_counts(counted: Callable[[str], Any], before: str, after: str) -> None:
    plain = counted(PLAIN)
    assert counted(PLAIN.replace(before, after)) != plain


def test_a_docstring_counts_where_the_module_reads_it(counted: Callable[[str], Any]) -> None:
    text = '"""yes no"""\ndef short(text):\n    return text in __doc__.split()\n'
    before = counted(text)
    assert counted(text + "# a comment\n") == before
    assert counted(text.replace("yes", "perhaps")) != before


def test_what_is_no_source_counts_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(content: bytes) -> Any:
        # Python loads such a file without its source.
        (tmp_path / "compiled_checker.pyc").write_bytes(content)
        importlib.invalidate_caches()
        judging = JudgeArguments(checker=["compiled_checker:short"])
        return evaluation_inputs(EvaluationArguments(), judging, with_benchmarks=False)["checker_source"]

    assert of(b"12") == of(b"12") != of(b"345")

"""When there is something to say of the code that did the jobs."""

from __future__ import annotations

import pytest

from qadapter.compare.mixed_code import UNKNOWN_CODE, mixed_code


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (["a", "b"], "mix jobs of 2 versions of qadapter's code (a, b)"),
        (["a", UNKNOWN_CODE], "mix jobs of at least 2 versions of qadapter's code (a, unknown)"),
        ([UNKNOWN_CODE], "may mix jobs of several versions of qadapter's code (unknown)"),
    ],
)
def test_it_is_said_where_jobs_differ_or_may_differ(codes: list[str], words: str) -> None:
    said = mixed_code(codes)
    assert said is not None
    assert f"these results {words}" in said


def test_nothing_is_said_of_one_code() -> None:
    assert mixed_code(["a"]) is None
    assert mixed_code(["a"], {"torch": ["2.8"], "trl": ["1.1"]}) is None


def test_libraries_that_differ_are_named_with_their_versions() -> None:
    libraries = {"torch": ["2.8"], "transformers": ["5.1", "5.2"], "trl": ["1.1", "1.2"]}
    words = "mix jobs done with different versions of other libraries (transformers 5.1, 5.2; trl 1.1, 1.2), which may"
    assert f"these results {words}" in (mixed_code(["a"], libraries) or "")
    assert f"of qadapter's code (a, b) and {words}" in (mixed_code(["a", "b"], libraries) or "")

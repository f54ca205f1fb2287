"""The axes, on records written by hand."""

from __future__ import annotations

from typing import Any

from qadapter.compare.axes import gained


def record(strength: float, items: list[float | None]) -> dict[str, Any]:
    return {"strength": strength, "judges": {"judge": {"items": items}}, "answers": {"prompts": len(items)}}


def test_a_gain_is_paired_by_prompt() -> None:
    base, ours = record(0, [0.1, 0.9, None, 0.5]), record(1, [0.25, 1.0, 0.5, None])
    assert gained(ours, base, "judge").groups == [[0.25 - 0.1, 1.0 - 0.9, None, None]]


def test_a_judge_that_compares_with_the_base_has_half_for_the_base() -> None:
    base = {"strength": 0, "judges": {}, "answers": {"prompts": 2}}
    assert gained(record(1, [1.0, 0.0]), base, "judge").groups == [[0.5, -0.5]]


def test_pairs_of_one_prompt_count_together() -> None:
    def margins(strength: float, values: list[float]) -> dict[str, Any]:
        return {"strength": strength, "preference": {"items": {"logp_margin": values, "prompt": [0, 1, 0]}}}

    found = gained(margins(1, [3.0, 5.0, 1.0]), margins(0, [0.0, 1.0, 1.0]), "logp_margin")
    assert (found.groups, found.weights) == ([[1.5, 4.0]], [[2.0, 1.0]])
    assert found.value == 7 / 3

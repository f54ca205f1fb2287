"""The bootstrap on samples of known distributions, and the differences against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qadapter.evaluate import bootstrap_difference, bootstrap_mean, difference_to_base
from qadapter.evaluate.comparison import judge_agreement
from qadapter.evaluate.figures import figure_rows
from qadapter.evaluate.statistics import clustered, mean_of_means


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def test_95_of_100_intervals_hold_the_mean() -> None:
    """300 samples of 80 from an exponential distribution; the standard error of the coverage is 0.013."""
    rng = np.random.default_rng(0)
    found = [bootstrap_mean(rng.exponential(2.0, 80), seed=seed, resamples=400) for seed in range(300)]
    assert 0.90 <= covered([one[1:] for one in found], 2.0) <= 0.98


def test_the_paired_interval_is_as_narrow_as_the_differences_allow() -> None:
    rng = np.random.default_rng(1)
    found = []
    for seed in range(200):
        shared = rng.normal(0, 10, 60)
        a, b = shared + rng.normal(0, 1, 60), shared + 0.5 + rng.normal(0, 1, 60)
        found.append(bootstrap_difference(a, b, seed=seed, resamples=400))
    assert 0.89 <= covered([one[1:] for one in found], 0.5) <= 0.99
    # 2 · 1.96 · √2 / √60 = 0.72; unpaired it would be 7.2.
    assert np.mean([one.high - one.low for one in found]) == pytest.approx(0.71, abs=0.08)


def test_weights_are_resampled_with_their_items() -> None:
    rng = np.random.default_rng(2)
    found = []
    for seed in range(200):
        tokens = rng.integers(1, 40, 60)
        # Items of many tokens have higher values: the mean over tokens is not the mean over items.
        values = tokens / 10 + rng.normal(0, 1, 60)
        found.append(bootstrap_mean(values, weights=tokens, seed=seed, resamples=400))
    truth = np.square(np.arange(1, 40)).sum() / np.arange(1, 40).sum() / 10
    assert 0.88 <= covered([one[1:] for one in found], truth) <= 0.99


def test_hand_worked_values() -> None:
    assert bootstrap_mean([1.0, 3.0]).value == 2.0
    assert bootstrap_mean([1.0, 3.0], weights=[3, 1]).value == 1.5
    assert bootstrap_difference([1.0, 2.0, 3.0], [2.0, 2.0, 5.0]).value == pytest.approx(1.0)
    assert mean_of_means([[1.0], [2.0, 4.0, 6.0]]).value == 2.5
    # Two items: a resample is (1, 1), (1, 3), (3, 1) or (3, 3).
    assert bootstrap_mean([1.0, 3.0])[1:] == (1.0, 3.0)
    assert bootstrap_mean([0.5] * 7) == (0.5, 0.5, 0.5)


def test_groups_count_the_same_whatever_their_size() -> None:
    """One group of 30 and one of 3000 items: the interval is that of the small one, halved."""
    rng = np.random.default_rng(3)
    small, large = rng.normal(0, 1, 30), rng.normal(0, 1, 3000)
    alone, both = bootstrap_mean(small), mean_of_means([small, large])
    assert both.high - both.low == pytest.approx((alone.high - alone.low) / 2, rel=0.1)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(4).normal(size=50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@pytest.mark.parametrize("values", [[], [float("nan")], [[1.0], [2.0]]])
def test_values_that_have_no_mean(values: list) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean(values)


def test_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        bootstrap_difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="weights"):
        bootstrap_mean([1.0, 2.0], weights=[1.0, 0.0])


def judged(items: list[float | None]) -> dict:
    return {"kind": "checker", "items": items}


def task(items: list[float], higher_is_better: bool = True) -> dict:
    return {"items": items, "higher_is_better": higher_is_better}


BASE = {
    "preference": {
        "items": {"margin": [0.0, 0.0], "logp_margin": [1.0, 3.0], "logp_chosen": [-5.0, -7.0], "prompt": [0, 1]}
    },
    "judges": {"checker:m:f": judged([0.0, 1.0, None, 0.0]), "reward:r": judged([1.0, 2.0, 3.0, 4.0])},
    "text": {"items": [{"nats": 10.0, "tokens": 5}, {"nats": 6.0, "tokens": 1}]},
    "tasks": {"a": task([1.0, 0.0]), "b": task([0.0, 0.0, 1.0, 1.0]), "c": task([3.0], higher_is_better=False)},
}
RECORD = {
    "preference": {
        "items": {"margin": [2.0, 0.0], "logp_margin": [2.0, 8.0], "logp_chosen": [-4.0, -7.0], "prompt": [0, 1]}
    },
    "judges": {
        "checker:m:f": judged([1.0, 1.0, 1.0, None]),
        "reward:r": judged([2.0, 2.0, 2.0, 5.0]),
        "endpoint:e": judged([1.0, 0.5, None, 0.0]),
    },
    "retention": {
        "kl_by_kind": {"code": 0.4, "document": 0.1},
        "items": [
            {"kind": "code", "kl": 0.4, "top1_agreement": 0.5, "tokens": 1},
            {"kind": "document", "kl": 0.1, "top1_agreement": 1.0, "tokens": 3},
        ],
    },
    "text": {"items": [{"nats": 15.0, "tokens": 5}, {"nats": 6.0, "tokens": 1}]},
    "tasks": {"a": task([1.0, 1.0]), "b": task([0.0, 0.0, 0.0, 1.0]), "c": task([4.0], higher_is_better=False)},
}


def test_differences_worked_by_hand() -> None:
    found = difference_to_base(RECORD, BASE)
    expected = {
        "preference.accuracy": (None, 0.75),  # one pair is right, one ties
        "preference.margin": (None, 1.0),
        "preference.logp_margin": (2.0, 5.0),
        "preference.logp_chosen": (-6.0, -5.5),
        "judges.checker:m:f": (0.5, 1.0),  # the two prompts that were judged on both sides
        "judges.reward:r": (2.5, 2.75),
        "judges.endpoint:e": (None, 0.5),
        "retention.kl_to_base": (None, (0.4 + 3 * 0.1) / 4),
        "retention.top1_agreement": (None, 3.5 / 4),
        "retention.kl.code": (None, 0.4),
        "retention.kl.document": (None, 0.1),
        "text.nats_per_token": (16 / 6, 21 / 6),
        "tasks.a": (0.5, 1.0),
        "tasks.b": (0.5, 0.25),
        "tasks.c": (3.0, 4.0),
        "tasks.mean": (0.5, 0.625),  # of a and b; in c less is better
    }
    assert {name: (one["base"], one["customized"]) for name, one in found.items()} == {
        name: (base if base is None else pytest.approx(base), pytest.approx(value))
        for name, (base, value) in expected.items()
    }
    for name, one in found.items():
        centre = one["customized"] if one["base"] is None else one["difference"]
        assert one["low"] <= centre <= one["high"], name
        assert one["difference"] == (None if one["base"] is None else pytest.approx(one["customized"] - one["base"]))
    assert found["judges.checker:m:f"]["items"] == 2
    assert (found["text.nats_per_token"]["low"], found["text.nats_per_token"]["high"]) == (0.0, 1.0)


def test_records_of_different_items() -> None:
    with pytest.raises(ValueError, match=r"tasks\.a was measured on 3 items for the base and on 2 here"):
        difference_to_base(RECORD, {**BASE, "tasks": {**BASE["tasks"], "a": task([1.0, 0.0, 0.0])}})


def answered(*texts: str) -> dict:
    return {"answers": {"items": [{"answer": text, "finished": True} for text in texts]}}


def test_the_same_answer_is_a_tie_whatever_rounding_says() -> None:
    """A reward model reads it in another batch, with other padding."""
    base = {**answered("a", "b", "c"), "judges": {"reward:r": judged([1.0, 1.0, 1.0])}}
    judges = {"reward:r": judged([1.0 + 1e-7, 1.0 - 1e-7, 2.0]), "endpoint:e": judged([0.5, 0.5, 1.0])}
    (line,) = judge_agreement({**answered("a", "b", "other"), "judges": judges}, base)
    assert (line["share"], line["kappa"]) == (1.0, 1.0)
    (line,) = judge_agreement({**answered("a", "B", "other"), "judges": judges}, base)
    assert line["share"] == pytest.approx(2 / 3)


def test_a_judge_that_fails_on_other_answers_at_each_strength_has_compared_with_other_bases() -> None:
    base = {"judges": {"checker:m:f": judged([0.0, 1.0, 1.0, 0.0])}}
    scores = [[1.0, 1.0, None, 0.0], [1.0, 1.0, 1.0, 1.0]]
    records = [{"judges": {"checker:m:f": judged(items)}} for items in scores]
    differences = [difference_to_base(record, base) for record in records]
    (row,) = figure_rows(differences, base)
    assert row.base == "33.3 %, 50.0 %"
    assert row.meaning == "share of 3, 4 fresh answers that a program accepts"
    (row,) = figure_rows(differences[1:] * 2, base)
    assert (row.base, row.meaning) == ("50.0 %", "share of 4 fresh answers that a program accepts")


def test_agreement_of_judges_by_hand() -> None:
    """Directions: checker [1, 0, –, –], reward [1, 0, −1, 1], endpoint [1, 0, –, −1]."""
    answers = answered("the same", "w", "x", "y"), answered("another", "w", "b", "c")
    record, base = ({**one, **texts} for one, texts in zip((RECORD, BASE), answers, strict=True))
    found = {tuple(line["judges"]): (line["share"], line["prompts"]) for line in judge_agreement(record, base)}
    assert found == {
        ("checker:m:f", "reward:r"): (1.0, 2),
        ("checker:m:f", "endpoint:e"): (1.0, 2),
        ("reward:r", "endpoint:e"): (pytest.approx(2 / 3), 3),
    }


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    """Ten prompts with eight equal pairs each tell as much as ten pairs, and not as much as eighty."""
    rng = np.random.default_rng(5)
    per_prompt = rng.normal(0, 1, 10)
    margins, prompts = np.repeat(per_prompt, 8).tolist(), np.repeat(np.arange(10), 8).tolist()
    items = {"margin": margins, "logp_margin": margins, "logp_chosen": margins, "prompt": prompts}
    base = {**items, "logp_margin": [0.0] * 80, "logp_chosen": [0.0] * 80}
    found = difference_to_base({"preference": {"items": items}}, {"preference": {"items": base}})
    alone = bootstrap_mean(per_prompt.tolist())
    for name in ("margin", "logp_margin"):
        figure = found[f"preference.{name}"]
        assert (figure["low"], figure["high"]) == pytest.approx((alone.low, alone.high))
        assert (figure["customized"], figure["items"]) == (pytest.approx(float(np.mean(margins))), 80)


def test_clusters_by_hand() -> None:
    assert clustered([1.0, 2.0, 6.0], ["a", "b", "a"]) == ([3.5, 2.0], [2.0, 1.0])
    with pytest.raises(ValueError, match="shorter"):
        clustered([1.0, 2.0], ["a"])


def test_of_a_single_document_no_interval_is_shown() -> None:
    text = {"items": [{"nats": 10.0, "tokens": 5}]}
    found = difference_to_base({"text": {"items": [{"nats": 11.0, "tokens": 5}]}}, {"text": text})
    (row,) = figure_rows([found], {"text": text})
    assert row.cells == [("2.200", "+0.200")]
    several = {"items": text["items"] * 2}
    (row,) = figure_rows([difference_to_base({"text": several}, {"text": several})], {"text": several})
    assert row.cells == [("2.000", "+0.000 [+0.000, +0.000]")]


def test_a_small_figure_is_not_shown_as_nothing() -> None:
    """Two digits of it; what differs by rounding alone stays 0."""
    record = {"text": {"items": [{"nats": 1.0, "tokens": 1}] * 2}}
    for change, shown in ((0.00034, "+0.00034"), (1e-12, "+0.000"), (-0.0085, "-0.0085"), (0.0123, "+0.012")):
        after = {"text": {"items": [{"nats": 1.0 + change, "tokens": 1}] * 2}}
        (row,) = figure_rows([difference_to_base(after, record)], record)
        assert row.cells[0][1].split()[0] == shown

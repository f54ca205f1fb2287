"""Intervals over prompts and seeds, and the figures that they are of."""

from __future__ import annotations

import numpy as np
import pytest

from qadapter.compare.axes import Figure, behaviour, choose_behaviour, forgetting
from qadapter.compare.interval import Draw, over_prompts_and_seeds, resampled
from qadapter.errors import ConfigError
from qadapter.evaluate import bootstrap_mean


def test_one_seed_is_the_bootstrap_over_items() -> None:
    values = np.random.default_rng(1).normal(size=400).tolist()
    weights = np.random.default_rng(2).uniform(1, 9, size=400).tolist()
    found = over_prompts_and_seeds([Figure([values], [weights])], Draw(resamples=4000))
    expected = bootstrap_mean(values, weights=weights, resamples=4000)
    assert found == pytest.approx(expected, abs=0.01)


def test_seeds_that_differ_widen_it() -> None:
    items = [1.0] * 50
    figures = [Figure([[shift * item for item in items]]) for shift in (1, 2, 3)]
    found = over_prompts_and_seeds(figures, Draw())
    # The items are all alike; means of three draws of {1, 2, 3} are 1 or 3 with probability 1/27 each.
    assert found == pytest.approx((2.0, 1.0, 3.0))
    assert over_prompts_and_seeds(figures[:1], Draw()) == pytest.approx((1.0, 1.0, 1.0))


def test_items_are_drawn_alike_for_all_seeds() -> None:
    """Two seeds that err on different halves of the prompts always have the mean 1/2 when drawn together."""
    one = [1.0] * 20 + [0.0] * 20
    other = [0.0] * 20 + [1.0] * 20
    found = over_prompts_and_seeds([Figure([one]), Figure([other])], Draw(resamples=4000))
    alone = over_prompts_and_seeds([Figure([one])], Draw(resamples=4000))
    assert found.value == 0.5
    # Half of the draws take both seeds and give exactly 1/2.
    assert found.high - found.low < alone.high - alone.low


def test_figures_of_the_same_items_are_drawn_together_and_others_by_themselves() -> None:
    """What two policies differ by on every prompt they differ by in every resample; other items are independent."""
    generator = np.random.default_rng(3)
    one = [Figure([generator.normal(size=40).tolist()]) for _ in range(2)]
    shifted = [Figure([[value + 5 for value in figure.groups[0]]]) for figure in one]
    together = resampled(shifted, Draw()) - resampled(one, Draw())
    assert together == pytest.approx(np.full(2000, 5.0))
    same_items = np.corrcoef(resampled(one[:1], Draw()), resampled(one[:1], Draw(items_of=1)))[0, 1]
    assert abs(same_items) < 0.1
    # The seeds are the same for both, whatever the items are.
    by_seed = [resampled([Figure([[float(seed)] * count]) for seed in range(3)], Draw(items_of=of))
               for of, count in ((0, 40), (1, 7))]  # fmt: skip
    assert by_seed[0] == pytest.approx(by_seed[1])


def test_failed_items_are_left_out_not_counted() -> None:
    assert Figure([[1.0, None, 0.0, None]]).value == 0.5
    assert over_prompts_and_seeds([Figure([[1.0, None, 1.0, None]])], Draw()) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="no item has a value"):
        over_prompts_and_seeds([Figure([[None, None]])], Draw())


def test_groups_count_alike() -> None:
    figure = Figure([[1.0] * 30, [0.0] * 2])
    assert figure.value == 0.5
    assert over_prompts_and_seeds([figure], Draw()) == pytest.approx((0.5, 0.5, 0.5))


RECORD = {
    "strength": 1.0,
    "preference": {"items": {"margin": [1.0, -2.0, 0.0, 3.0], "logp_margin": [1.0, 2.0, 3.0, 4.0]}},
    "answers": {"prompts": 2},
    "judges": {"checker:m:f": {"items": [1.0, None]}},
    "retention": {"items": [{"kl": 0.1, "tokens": 10}, {"kl": 0.4, "tokens": 20}]},
    "tasks": {
        "a": {"items": [1.0, 0.0], "higher_is_better": True},
        "b": {"items": [0.5, 0.5], "higher_is_better": True},
        "perplexity": {"items": [9.0, 9.0], "higher_is_better": False},
    },
}
BASE = {
    "strength": 0.0,
    "answers": {"prompts": 2},
    "judges": {},
    "tasks": {"a": {"items": [1.0, 1.0]}, "b": {"items": [0.25, 0.25]}, "perplexity": {"items": [1.0, 1.0]}},
}


def test_the_axes() -> None:
    assert behaviour(RECORD, "logp_margin").value == 2.5
    assert behaviour(RECORD, "checker:m:f").value == 1.0
    assert behaviour(BASE, "endpoint:model").value == 0.5, "it compares with the base, which ties with itself"
    assert forgetting(RECORD, BASE, "kl_to_base").value == pytest.approx((0.1 * 10 + 0.4 * 20) / 30)
    assert forgetting(RECORD, BASE, "tasks").value == pytest.approx((0.5 - 0.25) / 2)
    with pytest.raises(ConfigError, match="more is better in none"):
        forgetting({"tasks": {"perplexity": RECORD["tasks"]["perplexity"]}}, BASE, "tasks")


class FakeJudge:
    def __init__(self, name: str) -> None:
        self.name = name


def test_which_behaviour() -> None:
    judges = [FakeJudge("checker:m:f"), FakeJudge("reward:r")]
    assert choose_behaviour(None, judges) == "checker:m:f"
    assert choose_behaviour(None, []) == "logp_margin"
    assert choose_behaviour("reward:r", judges) == "reward:r"
    with pytest.raises(ConfigError, match=r"there is no 'reward:q' \(did you mean 'reward:r'\?\)"):
        choose_behaviour("reward:q", judges)
    with pytest.raises(ConfigError, match="one of checker:m:f, reward:r, logp_margin"):
        choose_behaviour("accuracy", judges)

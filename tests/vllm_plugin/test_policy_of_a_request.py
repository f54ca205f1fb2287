"""The section of config.json, the values of a request, and the weights of the batch's rows and tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import PAPER, RESIDUAL

from qadapter import QConstants
from qadapter.core import Mixture
from qadapter.errors import ArtifactError, ConfigError
from qadapter.vllm import dial_request
from qadapter.vllm.dial_request import check_request, dials_of_request
from qadapter.vllm.row_mixtures import RowMixtures
from qadapter.vllm.served_policy import ServedPolicy, served_policy

POLICY = ServedPolicy(PAPER, 0.5, rank=8, scaling=2.0, targets=("q_proj", "v_proj"), tensors=8)


def test_the_section_comes_back_as_it_was_written() -> None:
    import json

    assert served_policy(json.loads(json.dumps(POLICY.section()))) == POLICY


@pytest.mark.parametrize(
    ("section", "word"),
    [
        (None, "no section"),
        ({}, "no section"),
        (POLICY.section() | {"format_version": 2}, "format version 2"),
        (POLICY.section() | {"strength": -1.0}, "damaged"),
        (POLICY.section() | {"constants": {"parametrization": "neither"}}, "damaged"),
        (POLICY.section() | {"surplus": 1}, "damaged"),
        ({name: value for name, value in POLICY.section().items() if name != "rank"}, "damaged"),
    ],
)
def test_a_damaged_section_is_an_error(section: Any, word: str) -> None:
    with pytest.raises(ArtifactError, match=word):
        served_policy(section)


def test_constants_that_leave_no_policy_at_strength_0_are_refused() -> None:
    with pytest.raises(ConfigError, match="no policy"):
        ServedPolicy(QConstants("logits", alpha_0=0.0), 1.0, rank=8, scaling=2.0, targets=(), tensors=0)


def test_the_mixture_of_a_request() -> None:
    """By hand: `logits` a = η/α̃, b = α₀/α̃; `residual` a = η·α̃ₜ/α̃, b = (α₀ − η·α̃ₜ)/α̃ with α̃ₜ of training."""
    assert POLICY.mixture() == pytest.approx((0.5, 0.01))
    assert POLICY.mixture(strength=2.0, alpha_0=0.3, alpha_tilde=0.5) == pytest.approx((4.0, 0.6))
    residual = ServedPolicy(RESIDUAL, 1.0, rank=8, scaling=2.0, targets=(), tensors=0)
    assert residual.mixture() == pytest.approx((1.0, 0.0))
    assert residual.mixture(strength=0.5, alpha_tilde=0.6) == pytest.approx((0.25, 0.25))


def test_other_arguments_of_a_request_are_left_alone() -> None:
    assert dials_of_request(None) == {}
    assert dials_of_request({"session_id": "x", "strength": 1, "alpha_tilde": 0.5}) == {
        "strength": 1.0,
        "alpha_tilde": 0.5,
    }


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"strength": -0.5}, "strength must be finite and ≥ 0"),
        ({"strength": float("nan")}, "strength must be finite"),
        ({"strength": "0.5"}, "must be a number"),
        ({"strength": True}, "must be a number"),
        ({"alpha_0": [0.1]}, "must be a number"),
        ({"alpha_tilde": 0}, "alpha_tilde must be finite and > 0"),
        ({"strenght": 0.5}, "did you mean 'strength'"),
        ({"alpha0": 0.5}, "did you mean 'alpha_0'"),
        ({"strength": 0, "alpha_0": 0}, "no policy"),
    ],
)
def test_a_request_that_cannot_be_served_is_an_error(extra: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        dials_of_request(extra)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"alpha_0": 0}, "no policy"),
        ({"strength": 1e39}, "weights beyond ±1000"),
        ({"strength": 1, "alpha_tilde": 1e-4}, "weights beyond ±1000"),
        ({"strength": -1}, "strength must be finite"),
    ],
    ids=str,
)
def test_a_request_is_checked_with_what_the_folder_says(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], word: str
) -> None:
    """The folder was exported with strength 0."""
    folder = ServedPolicy(PAPER, 0.0, rank=8, scaling=2.0, targets=(), tensors=0)
    monkeypatch.setattr(dial_request, "CONFIGURED", [folder])
    check_request(None)
    check_request({"strength": 0.5, "alpha_0": 0})
    with pytest.raises(ConfigError, match=word):
        check_request(extra)


def test_each_token_gets_the_weights_of_its_row() -> None:
    """Three rows of 4, 1 and 2 tokens and two tokens of padding; the middle row has the default."""
    rows = RowMixtures(Mixture(1.0, 0.0), rows=5)
    rows.set({0: Mixture(0.25, 0.75), 2: Mixture(2.0, -1.0)})
    weights = rows.of_tokens(torch.tensor([0, 4, 5, 7], dtype=torch.int32), tokens=9)
    assert weights.adapter.tolist()[:7] == [0.25, 0.25, 0.25, 0.25, 1.0, 2.0, 2.0]
    assert weights.base.tolist()[:7] == [0.75, 0.75, 0.75, 0.75, 0.0, -1.0, -1.0]
    assert weights.adapter.shape == weights.base.shape == (9,)


def test_rows_that_are_no_longer_set_take_the_default_in_the_same_memory() -> None:
    rows = RowMixtures(Mixture(1.0, 0.0), rows=3)
    place = rows.weights.data_ptr()
    rows.set({1: Mixture(0.0, 1.0)})
    rows.set({2: Mixture(3.0, -2.0)})
    assert rows.weights.tolist() == [[1.0, 1.0, 3.0], [0.0, 0.0, -2.0]]
    assert rows.weights.data_ptr() == place


def test_a_full_batch_of_single_tokens_with_padding_stays_inside() -> None:
    rows = RowMixtures(Mixture(1.0, 0.0), rows=2)
    weights = rows.of_tokens(torch.tensor([0, 1, 2], dtype=torch.int32), tokens=4)
    assert len(weights.adapter) == 4

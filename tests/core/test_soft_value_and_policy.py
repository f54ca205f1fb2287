"""Soft value and policy: a number by hand, the oracle, and the exact properties of design section 2."""

import math

import oracles
import pytest
import torch

from qadapter.core import policy_logp, soft_value

CONSTANTS = [(1.0, 1.0), (0.01, 1.0), (0.3, 0.7), (0.0, 0.5)]


def states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64)
    return q, torch.randn(3, 5, 11, generator=generator, dtype=torch.float64).log_softmax(-1)


def test_soft_value_by_hand() -> None:
    # Two actions, π₀ = (1/4, 3/4), Q̂ = (log 4, 0), α₀ = α̃ = 1: Ṽ = log(4·1/4 + 1·3/4) = log(7/4).
    q = torch.tensor([math.log(4.0), 0.0], dtype=torch.float64)
    base_logp = torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    assert soft_value(q, base_logp, alpha_0=1.0, alpha_tilde=1.0).item() == pytest.approx(math.log(7 / 4))
    assert policy_logp(q, base_logp, alpha_0=1.0, alpha_tilde=1.0).exp().tolist() == pytest.approx([4 / 7, 3 / 7])


@pytest.mark.parametrize(("alpha_0", "alpha_tilde"), CONSTANTS)
def test_against_the_oracle(alpha_0: float, alpha_tilde: float) -> None:
    q, base_logp = states()
    expected = oracles.soft_value(q, base_logp, alpha_0, alpha_tilde)
    torch.testing.assert_close(soft_value(q, base_logp, alpha_0=alpha_0, alpha_tilde=alpha_tilde), expected)
    expected = oracles.policy_logp(q, base_logp, alpha_0, alpha_tilde)
    torch.testing.assert_close(policy_logp(q, base_logp, alpha_0=alpha_0, alpha_tilde=alpha_tilde), expected)


@pytest.mark.parametrize(("alpha_0", "alpha_tilde"), CONSTANTS)
def test_identity(alpha_0: float, alpha_tilde: float) -> None:
    """Q̂ − Ṽ(s) = α̃·log π̃ − α₀·log π₀ at the same state and action; and π̃ is a distribution."""
    q, base_logp = states()
    value = soft_value(q, base_logp, alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    logp = policy_logp(q, base_logp, alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    torch.testing.assert_close(q - value[..., None], alpha_tilde * logp - alpha_0 * base_logp)
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(3, 5, dtype=torch.float64))


@pytest.mark.parametrize(("alpha_0", "alpha_tilde"), CONSTANTS)
def test_shift(alpha_0: float, alpha_tilde: float) -> None:
    """Adding c(s) to Q̂ leaves π̃ unchanged and raises Ṽ by c."""
    q, base_logp = states()
    shift = torch.randn(3, 5, dtype=torch.float64)
    kw = {"alpha_0": alpha_0, "alpha_tilde": alpha_tilde}
    torch.testing.assert_close(policy_logp(q + shift[..., None], base_logp, **kw), policy_logp(q, base_logp, **kw))
    torch.testing.assert_close(
        soft_value(q + shift[..., None], base_logp, **kw), soft_value(q, base_logp, **kw) + shift
    )

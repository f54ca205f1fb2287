"""KL to the base in single states, against the dense sum: values and gradients in float64."""

import pytest
import torch
from core.test_token_values import CASES, HEADS, VOCABULARY, problem

from qadapter.core import Mixture, base_kl, chunked_logsumexp, policy_mixture, residual_q_function


def ours(h1, h0, head, mixture: Mixture, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        mixed, _ = chunked_logsumexp(h1, head, mixture, h0)
        base, _ = chunked_logsumexp(h0, head)
    return base_kl(h1, h0, mixed, base, head, mixture, **kwargs)


def dense(h1, h0, head, mixture: Mixture) -> torch.Tensor:
    base_logp = head.logits(h0).log_softmax(-1)
    policy_logp = (mixture.adapter * head.logits(h1) + mixture.base * head.logits(h0)).log_softmax(-1)
    return (base_logp.exp() * (base_logp - policy_logp)).sum(-1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("parametrization", "alpha_0", "alpha_tilde"), CASES)
def test_values_and_gradients(head: str, parametrization: str, alpha_0: float, alpha_tilde: float) -> None:
    h1, h0, lm_head, _ = problem(head)
    residual_q = residual_q_function(parametrization, alpha_tilde)
    mixture = policy_mixture(residual_q, alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    mine, theirs = h1.clone().requires_grad_(), h1.clone().requires_grad_()
    kl = ours(mine, h0, lm_head, mixture, chunk_elements=4 * VOCABULARY)
    expected = dense(theirs, h0, lm_head, mixture)
    torch.testing.assert_close(kl, expected)
    assert (kl > 0).all()

    weights = torch.randn(len(h1), dtype=torch.float64)
    (weights * kl).sum().backward()
    (weights * expected).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_chunk_size_does_not_matter() -> None:
    h1, h0, lm_head, _ = problem("plain")
    whole = ours(h1, h0, lm_head, Mixture(1.0, 0.0))
    for elements in (1, 3 * VOCABULARY + 5):
        torch.testing.assert_close(ours(h1, h0, lm_head, Mixture(1.0, 0.0), chunk_elements=elements), whole)


def test_the_same_policy_has_no_distance_and_no_gradient_in_bfloat16() -> None:
    _, h0, lm_head, _ = problem("plain", torch.bfloat16)
    h1 = h0.clone().requires_grad_()
    kl = ours(h1, h0, lm_head, Mixture(1.0, 0.0))
    kl.sum().backward()
    assert kl.abs().max() == 0
    assert h1.grad.abs().max() == 0

"""Chunked values against the dense equations: values and gradients in float64, an error budget in bfloat16."""

import oracles
import pytest
import torch

from qadapter.core import BaseStates, LMHead, base_states, policy_mixture, residual_q_function, token_values

TOKENS, HIDDEN, VOCABULARY = 23, 13, 507
CASES = [("residual", 1.0, 1.0), ("residual", 0.2, 0.5), ("logits", 0.01, 1.0), ("logits", 1.0, 0.7)]
HEADS = ["plain", "bias", "scale", "softcap"]


def problem(head: str, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    h1, h0 = torch.randn(2, TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) if head == "bias" else None
    actions = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    lm_head = LMHead(
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        scale=0.25 if head == "scale" else 1.0,
        softcap=5.0 if head == "softcap" else None,
    )
    return h1.to(dtype), h0.to(dtype), lm_head, actions


def base_of(h0: torch.Tensor, head: LMHead, actions: torch.Tensor, chunk_elements: int = 2**22) -> BaseStates:
    return base_states(h0, head, actions, keep_hidden=True, chunk_elements=chunk_elements)


def dense(h1, h0, head: LMHead, actions, parametrization: str, alpha_0: float, alpha_tilde: float):
    """The same fields from full logits, by the oracle."""
    at = (torch.arange(len(actions)), actions)
    z1, z0 = head.logits(h1), head.logits(h0)
    q = oracles.q_function(parametrization, z1, z0, alpha_tilde)
    return (
        q[at],
        oracles.soft_value(q, z0, alpha_0, alpha_tilde),
        oracles.policy_logp(q, z0, alpha_0, alpha_tilde)[at],
        oracles.log_softmax(z0)[at],
        (oracles.soft_value(q, z0, alpha_0, alpha_tilde) + alpha_0 * z0.logsumexp(-1)) / alpha_tilde,
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("parametrization", "alpha_0", "alpha_tilde"), CASES)
def test_values_and_gradients(head: str, parametrization: str, alpha_0: float, alpha_tilde: float) -> None:
    h1, h0, lm_head, actions = problem(head)
    ours, theirs = h1.clone().requires_grad_(), h1.clone().requires_grad_()
    values = token_values(
        ours,
        base_of(h0, lm_head, actions, 4 * VOCABULARY),
        lm_head,
        actions,
        residual_q=residual_q_function(parametrization, alpha_tilde),
        alpha_0=alpha_0,
        alpha_tilde=alpha_tilde,
        chunk_elements=4 * VOCABULARY,
    )
    expected = dense(theirs, h0, lm_head, actions, parametrization, alpha_0, alpha_tilde)
    for got, want in zip(values, expected, strict=True):
        torch.testing.assert_close(got, want)

    weights = torch.randn(3, TOKENS, dtype=torch.float64)
    sum((w * v).sum() for w, v in zip(weights, values[:3], strict=True)).backward()
    sum((w * v).sum() for w, v in zip(weights, expected[:3], strict=True)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_chunk_size_does_not_matter() -> None:
    h1, h0, lm_head, actions = problem("plain")
    kw = {"residual_q": residual_q_function("logits", 0.7), "alpha_0": 0.2, "alpha_tilde": 0.7}
    whole = token_values(h1, base_of(h0, lm_head, actions), lm_head, actions, **kw)
    for elements in (1, 3 * VOCABULARY + 5):
        base = base_of(h0, lm_head, actions, elements)
        chunked = token_values(h1, base, lm_head, actions, chunk_elements=elements, **kw)
        for a, b in zip(whole, chunked, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("parametrization", "alpha_0", "alpha_tilde"), CASES)
def test_bfloat16_error_budget(parametrization: str, alpha_0: float, alpha_tilde: float) -> None:
    """Our bfloat16 values are no further from the float64 truth than the dense bfloat16 ones, plus a little."""
    h1, h0, lm_head, actions = problem("plain", torch.bfloat16)
    exact_head = LMHead(lm_head.weight.double())
    truth = dense(h1.double(), h0.double(), exact_head, actions, parametrization, alpha_0, alpha_tilde)
    naive = dense(h1, h0, lm_head, actions, parametrization, alpha_0, alpha_tilde)
    values = token_values(
        h1,
        base_of(h0, lm_head, actions),
        lm_head,
        actions,
        residual_q=residual_q_function(parametrization, alpha_tilde),
        alpha_0=alpha_0,
        alpha_tilde=alpha_tilde,
    )
    for got, rough, exact in zip(values, naive, truth, strict=True):
        budget = (rough.double() - exact).abs().mean() + 0.02
        assert (got.double() - exact).abs().mean() <= budget


def test_a_fresh_residual_adapter_is_exactly_zero() -> None:
    """h₁ = h₀ bit for bit gives Q̂ = 0 and, with ρ = 1, Ṽ = 0 and π̃ = π₀, in bfloat16 too."""
    h1, _, lm_head, actions = problem("plain", torch.bfloat16)
    kw = {"residual_q": residual_q_function("residual", 0.3), "alpha_0": 0.3, "alpha_tilde": 0.3}
    values = token_values(h1, base_of(h1, lm_head, actions), lm_head, actions, **kw)
    assert values.q_t.abs().max() == 0
    assert values.v_t.abs().max() == 0
    torch.testing.assert_close(values.policy_logp_t, values.base_logp_t, rtol=0, atol=0)


def test_only_the_adapter_receives_gradients() -> None:
    h1, h0, lm_head, actions = problem("plain")
    h1.requires_grad_(), h0.requires_grad_(), lm_head.weight.requires_grad_()
    kw = {"residual_q": residual_q_function("residual", 0.5), "alpha_0": 0.2, "alpha_tilde": 0.5}
    values = token_values(h1, base_of(h0, lm_head, actions), lm_head, actions, **kw)
    (values.q_t + values.v_t).sum().backward()
    assert h1.grad is not None
    assert h0.grad is None
    assert lm_head.weight.grad is None


def test_two_numbers_by_hand() -> None:
    """Logits 2 and 0 in one state: z₀(a) = 2 or 0, logsumexp = log(e² + 1)."""
    head = LMHead(torch.tensor([[2.0], [0.0]], dtype=torch.float64))
    states = base_states(torch.ones(2, 1, dtype=torch.float64), head, torch.tensor([0, 1]), keep_hidden=False)
    assert states.action_logits.tolist() == [2.0, 0.0]
    assert states.logsumexp.tolist() == pytest.approx([2.1269280110429727] * 2, abs=1e-12)
    assert states.hidden is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("keep_hidden", [False, True])
@pytest.mark.parametrize(("parametrization", "alpha_0", "alpha_tilde"), CASES)
def test_kept_states_give_the_dense_values_and_gradients(
    head: str, keep_hidden: bool, parametrization: str, alpha_0: float, alpha_tilde: float
) -> None:
    """In float64, from tensors alone; without h₀ wherever the mixture has no weight on z₀."""
    residual_q = residual_q_function(parametrization, alpha_tilde)
    needed = policy_mixture(residual_q, alpha_0=alpha_0, alpha_tilde=alpha_tilde).base != 0
    h1, h0, lm_head, actions = problem(head)
    base = base_states(h0, lm_head, actions, keep_hidden=keep_hidden)
    ours, theirs = h1.clone().requires_grad_(), h1.clone().requires_grad_()
    kw = {"residual_q": residual_q, "alpha_0": alpha_0, "alpha_tilde": alpha_tilde, "chunk_elements": 5 * VOCABULARY}
    if needed and not keep_hidden:
        with pytest.raises(ValueError, match="its hidden states are needed"):
            token_values(ours, base, lm_head, actions, **kw)
        return
    values = token_values(ours, base, lm_head, actions, **kw)
    expected = dense(theirs, h0, lm_head, actions, parametrization, alpha_0, alpha_tilde)
    weights = torch.randn(3, TOKENS, dtype=torch.float64)
    for got, want in zip(values, expected, strict=True):
        torch.testing.assert_close(got, want)
    sum((w * v).sum() for w, v in zip(weights, values[:3], strict=True)).backward()
    sum((w * v).sum() for w, v in zip(weights, expected[:3], strict=True)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("parametrization", "alpha_0", "alpha_tilde"), CASES)
def test_with_kept_states_the_heads_product_is_taken_once(
    head: str, parametrization: str, alpha_0: float, alpha_tilde: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear head multiplies one set of hidden states; a capped one h₀ too, where the mixture has a weight on z₀."""
    h1, h0, lm_head, actions = problem(head)
    residual_q = residual_q_function(parametrization, alpha_tilde)
    base = base_states(h0, lm_head, actions, keep_hidden=True)
    products, product = [], LMHead._product
    monkeypatch.setattr(LMHead, "_product", lambda *of: products.append(1) or product(*of))
    token_values(h1, base, lm_head, actions, residual_q=residual_q, alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    capped = head == "softcap" and policy_mixture(residual_q, alpha_0=alpha_0, alpha_tilde=alpha_tilde).base != 0
    assert len(products) == (2 if capped else 1)


def test_kept_states_carry_no_gradient() -> None:
    _, h0, lm_head, actions = problem("plain")
    states = base_states(h0.requires_grad_(), lm_head, actions, keep_hidden=False)
    assert not states.action_logits.requires_grad
    assert not states.logsumexp.requires_grad

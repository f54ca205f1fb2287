"""The mixture's weights: what decoding combines is the policy that the loss trained."""

import oracles
import pytest
import torch

from qadapter.core import LMHead, mix_hidden_states, policy_mixture, residual_q_function

CASES = [
    ("residual", 1.0, 1.0),
    ("residual", 0.3, 0.3),
    ("residual", 0.2, 0.5),
    ("logits", 0.01, 1.0),
    ("logits", 1.0, 0.7),
]


def hidden(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    h1, h0 = torch.randn(2, rows, 5, 13, generator=generator, dtype=torch.float64)
    return h1, h0, torch.randn(17, 13, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("parametrization", "alpha_0", "alpha_tilde"), CASES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_hidden_state_mixing_is_the_dense_policy(
    parametrization: str, alpha_0: float, alpha_tilde: float, strength: float
) -> None:
    h1, h0, weight = hidden()
    residual_q = residual_q_function(parametrization, alpha_tilde)
    mixture = policy_mixture(residual_q, alpha_0=alpha_0, alpha_tilde=alpha_tilde, strength=strength)
    mixed = LMHead(weight).mixed_logits(h1, h0, mixture).log_softmax(-1)

    z1, z0 = h1 @ weight.T, h0 @ weight.T
    q = strength * oracles.q_function(parametrization, z1, z0, alpha_tilde)
    torch.testing.assert_close(mixed, oracles.policy_logp(q, z0, alpha_0, alpha_tilde))


def test_residual_weights_are_eta_and_rho_minus_eta() -> None:
    mixture = policy_mixture(residual_q_function("residual", 0.5), alpha_0=0.4, alpha_tilde=0.5, strength=0.25)
    assert mixture.adapter == pytest.approx(0.25)
    assert mixture.base == pytest.approx(0.4 / 0.5 - 0.25)


def test_alpha_tilde_at_decode_time_is_a_temperature() -> None:
    """Q̂ keeps the scale of training: doubling α̃ halves the policy's logits, whatever the parametrization."""
    for parametrization in ("residual", "logits"):
        residual_q = residual_q_function(parametrization, 0.5)
        trained = policy_mixture(residual_q, alpha_0=0.3, alpha_tilde=0.5)
        hotter = policy_mixture(residual_q, alpha_0=0.3, alpha_tilde=1.0)
        assert hotter.adapter == pytest.approx(trained.adapter / 2)
        assert hotter.base == pytest.approx(trained.base / 2)


def test_one_dial_per_row() -> None:
    h1, h0, weight = hidden()
    residual_q = residual_q_function("residual", 0.5)
    dials = torch.tensor([0.0, 0.5, 2.0])
    together = LMHead(weight).mixed_logits(
        h1, h0, policy_mixture(residual_q, alpha_0=0.4, alpha_tilde=0.5, strength=dials)
    )
    for row, dial in enumerate(dials.tolist()):
        alone = policy_mixture(residual_q, alpha_0=0.4, alpha_tilde=0.5, strength=dial)
        torch.testing.assert_close(
            together[row],
            LMHead(weight).mixed_logits(h1[row : row + 1], h0[row : row + 1], alone)[0],
            rtol=1e-6,
            atol=1e-6,
        )


@pytest.mark.parametrize("head", ["bias", "scale", "softcap", "bias and scale"])
def test_heads_that_are_not_a_bare_product(head: str) -> None:
    h1, h0, weight = hidden()
    lm_head = LMHead(
        weight,
        bias=torch.randn(17, dtype=torch.float64) if "bias" in head else None,
        scale=0.25 if "scale" in head else 1.0,
        softcap=3.0 if head == "softcap" else None,
    )
    mixture = policy_mixture(residual_q_function("logits", 0.7), alpha_0=0.4, alpha_tilde=0.7, strength=1.5)
    dense = mixture.adapter * lm_head.logits(h1) + mixture.base * lm_head.logits(h0)
    torch.testing.assert_close(lm_head.mixed_logits(h1, h0, mixture), dense)


def test_mixing_in_float32_keeps_the_states_difference() -> None:
    """a = 3, b = −2 on equal bfloat16 states must give the state itself, not one with a rounding error."""
    h = torch.randn(4, 6, dtype=torch.bfloat16)
    mixture = policy_mixture(residual_q_function("residual", 1.0), alpha_0=1.0, alpha_tilde=1.0, strength=3.0)
    torch.testing.assert_close(mix_hidden_states(h, h, mixture), h.float(), rtol=1e-6, atol=1e-6)


def test_unknown_parametrization() -> None:
    with pytest.raises(ValueError, match=r"parametrization must be one of.*'q'"):
        residual_q_function("q", 1.0)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_logits_of_a_wider_product_are_not_rounded(softcap: float | None) -> None:
    """With more entries than are converted at a time; W and hidden states are bfloat16 themselves."""
    generator = torch.Generator().manual_seed(1)
    h1, h0 = torch.randn(2, 2, 3, 13, generator=generator).bfloat16()
    head = LMHead(torch.randn(9001, 13, generator=generator).bfloat16(), softcap=softcap)
    wide = head._replace(weight=head.weight.double())
    mixture = policy_mixture(residual_q_function("residual", 0.5), alpha_0=0.4, alpha_tilde=0.5, strength=0.3)
    for dtype, far in ((torch.float32, False), (None, True)):
        alone, mixed = head.logits(h1, dtype), head.mixed_logits(h1, h0, mixture, dtype)
        for got, exact in (
            (alone, wide.logits(h1.double())),
            (mixed, wide.mixed_logits(h1.double(), h0.double(), mixture)),
        ):
            assert ((got - exact).abs().max() > 1e-3) == far
            assert got.shape == (2, 3, 9001)

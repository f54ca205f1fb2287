"""Rewards, returns, penalty and objective: time indices, terminals, neighbours, and DPO as a special case."""

import math

import oracles
import pytest
import torch

from qadapter.core import (
    bradley_terry_loss,
    chi2_penalty,
    chosen_nll,
    discounted_return,
    implied_rewards,
    next_state_values,
    preference_objective,
    soft_value,
)

GAMMAS = [1.0, 0.9]


def random_pair(seed: int, lengths: tuple[int, int] = (5, 3), vocabulary: int = 7):
    """Q̂ and base logits of the states of a chosen and a rejected response that share their first state."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    first = torch.randn(2, vocabulary, generator=generator, dtype=torch.float64)
    for length in lengths:
        q, base = torch.randn(2, length + 1, vocabulary, generator=generator, dtype=torch.float64)
        q[0], base[0] = first
        sides.append((q, base, torch.randint(vocabulary, (length,), generator=generator).tolist()))
    return sides


def grids(sides, alpha_0: float, alpha_tilde: float, pad_to: int = 0):
    """Q̂ [2, tokens], Ṽ [2, tokens + 1] and log π̃ [2, tokens] of the objective; padding is filled with large numbers."""
    width = max(pad_to, *(len(tokens) for *_, tokens in sides))
    q_t = torch.full((len(sides), width), 1e3, dtype=torch.float64)
    v_t = torch.full((len(sides), width + 1), 1e3, dtype=torch.float64)
    logp_t = torch.full((len(sides), width), 1e3, dtype=torch.float64)
    for row, (q, base, tokens) in enumerate(sides):
        q_t[row, : len(tokens)] = q[range(len(tokens)), tokens]
        logp_t[row, : len(tokens)] = oracles.policy_logp(q, base, alpha_0, alpha_tilde)[range(len(tokens)), tokens]
        v_t[row, : len(tokens) + 1] = soft_value(q, base.log_softmax(-1), alpha_0=alpha_0, alpha_tilde=alpha_tilde)
    return q_t, v_t, logp_t, torch.tensor([len(tokens) for *_, tokens in sides])


def test_rewards_by_hand() -> None:
    # γ = 1/2, values 1, 2, 4 before the tokens and 8 after the last; Q̂ = 10, 20, 30.
    v_t, lengths = torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 2), torch.tensor([3, 3])
    v_tp1 = next_state_values(v_t, lengths, torch.tensor([True, False]))
    assert v_tp1.tolist() == [[2.0, 4.0, 0.0], [2.0, 4.0, 8.0]]
    r_t = implied_rewards(torch.tensor([[10.0, 20.0, 30.0]] * 2), v_tp1, gamma=0.5)
    assert r_t.tolist() == [[9.0, 18.0, 30.0], [9.0, 18.0, 26.0]]
    assert discounted_return(r_t, torch.ones(2, 3, dtype=torch.bool), gamma=0.5).tolist() == [25.5, 24.5]


def test_penalty_and_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([[1.0, 2.0, 99.0]]), torch.tensor([[3.0, 99.0]])
    masks = torch.tensor([[True, True, False]]), torch.tensor([[True, False]])
    assert chi2_penalty(chosen, masks[0], rejected, masks[1]).item() == pytest.approx((1 + 4 + 9) / 3)
    assert bradley_terry_loss(torch.tensor([2.0]), torch.tensor([2.0])).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("terminated", [(True, True), (True, False), (False, False)])
def test_objective_against_the_oracle(gamma: float, terminated: tuple[bool, bool]) -> None:
    sides = random_pair(2)
    q_t, v_t, logp_t, lengths = grids(sides, 0.3, 0.7, pad_to=9)
    terms = preference_objective(q_t, v_t, logp_t, lengths, torch.tensor(terminated), gamma=gamma, chi2_coef=0.1)
    chosen, rejected = (
        oracles.rewards(q, base, tokens, end, 0.3, 0.7, gamma)
        for (q, base, tokens), end in zip(sides, terminated, strict=True)
    )
    torch.testing.assert_close(terms.loss[0], oracles.pair_loss(chosen, rejected, gamma, 0.1))


def test_the_likelihood_of_the_chosen_response_by_hand() -> None:
    logp, mask = torch.tensor([[-1.0, -3.0, 99.0], [-4.0, 99.0, 99.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert chosen_nll(logp, mask).tolist() == [4.0, 4.0]


def test_the_likelihood_term_is_of_the_chosen_response_alone_and_adds_to_the_rest() -> None:
    (chosen, rejected), ended = random_pair(10), torch.tensor([True, False])
    inputs, kw = grids([chosen, rejected], 0.3, 0.7, pad_to=9), {"gamma": 0.9, "chi2_coef": 0.1}
    without = preference_objective(*inputs, ended, **kw)
    terms = preference_objective(*inputs, ended, **kw, sft_coef=0.4)
    q, base, tokens = chosen
    nll = -oracles.policy_logp(q, base, 0.3, 0.7)[range(len(tokens)), tokens].sum()
    torch.testing.assert_close(terms.chosen_nll[0], nll)
    torch.testing.assert_close(terms.loss, without.loss + 0.4 * nll)


def test_telescoping_and_what_it_hides() -> None:
    """γ = 1, shared prompt, Ṽ(terminal) = 0: the margin is the same with Ṽ(s_t); the penalty is not."""
    q_t, v_t, logp_t, lengths = grids(random_pair(3), 0.5, 0.5)
    ended = torch.tensor([True, True])
    mask = torch.arange(q_t.shape[1])[None] < lengths[:, None]
    next_state = implied_rewards(q_t, next_state_values(v_t, lengths, ended), gamma=1.0)
    same_state = q_t - v_t[:, :-1]
    returns = [discounted_return(r, mask, gamma=1.0) for r in (next_state, same_state)]
    torch.testing.assert_close(returns[0][0] - returns[0][1], returns[1][0] - returns[1][1])

    penalties = [chi2_penalty(r[:1], mask[:1], r[1:], mask[1:]) for r in (next_state, same_state)]
    assert abs(penalties[0] - penalties[1]) > 0.1
    for value_state, penalty in zip(("next", "same"), penalties, strict=True):
        terms = preference_objective(
            q_t, v_t, logp_t, lengths, ended, gamma=1.0, chi2_coef=1.0, value_state=value_state
        )
        torch.testing.assert_close(terms.chi2, penalty)
        torch.testing.assert_close(terms.return_chosen - terms.return_rejected, returns[0][0:1] - returns[0][1:2])


def test_length_normalized_returns_are_means_over_a_responses_own_tokens() -> None:
    q_t, v_t, logp_t, lengths = grids(random_pair(3, lengths=(5, 3)), 0.5, 0.5, pad_to=9)
    args = (q_t, v_t, logp_t, lengths, torch.tensor([True, False]))
    whole = preference_objective(*args, gamma=0.9, chi2_coef=0.0)
    normalized = preference_objective(*args, gamma=0.9, chi2_coef=0.0, length_normalized=True)
    torch.testing.assert_close(normalized.return_chosen, whole.return_chosen / 5)
    torch.testing.assert_close(normalized.return_rejected, whole.return_rejected / 3)
    torch.testing.assert_close(normalized.chi2, whole.chi2)
    with_likelihood = preference_objective(*args, gamma=0.9, chi2_coef=0.0, sft_coef=0.4, length_normalized=True)
    torch.testing.assert_close(with_likelihood.chosen_nll, whole.chosen_nll)
    torch.testing.assert_close(with_likelihood.loss, normalized.loss + 0.4 * whole.chosen_nll / 5)


def test_reward_to_q_and_back() -> None:
    """Soft backup of a known reward over a tree gives a Q̂ from which the operator recovers that reward."""
    alpha_0, alpha_tilde, gamma, vocabulary, depth = 0.3, 0.7, 0.9, 3, 3
    generator = torch.Generator().manual_seed(4)
    paths = [path for d in range(depth) for path in _paths(vocabulary, d)]
    reward = {p: torch.randn(vocabulary, generator=generator, dtype=torch.float64) for p in paths}
    base = {p: torch.randn(vocabulary, generator=generator, dtype=torch.float64).log_softmax(0) for p in paths}
    q, value = {}, {}
    for path in sorted(paths, key=len, reverse=True):
        after = [value.get((*path, a), torch.zeros((), dtype=torch.float64)) for a in range(vocabulary)]
        q[path] = reward[path] + gamma * torch.stack(after)
        value[path] = soft_value(q[path], base[path], alpha_0=alpha_0, alpha_tilde=alpha_tilde)

    for leaf in _paths(vocabulary, depth):
        prefixes = [leaf[:t] for t in range(depth)]
        q_t = torch.stack([q[p][a] for p, a in zip(prefixes, leaf, strict=True)])[None]
        v_t = torch.stack([value[p] for p in prefixes] + [torch.tensor(5.0, dtype=torch.float64)])[None]
        v_tp1 = next_state_values(v_t, torch.tensor([depth]), torch.tensor([True]))
        expected = torch.stack([reward[p][a] for p, a in zip(prefixes, leaf, strict=True)])[None]
        torch.testing.assert_close(implied_rewards(q_t, v_tp1, gamma=gamma), expected)


def _paths(vocabulary: int, depth: int) -> list[tuple[int, ...]]:
    return [()] if depth == 0 else [(*p, a) for p in _paths(vocabulary, depth - 1) for a in range(vocabulary)]


def test_dpo_is_a_special_case() -> None:
    """γ = 1, α₀ = α̃ = β, χ² = 0: the loss is DPO's with π̃ as the policy."""
    beta, sides = 0.1, random_pair(5)
    q_t, v_t, logp_t, lengths = grids(sides, beta, beta)
    terms = preference_objective(q_t, v_t, logp_t, lengths, torch.tensor([True, True]), gamma=1.0, chi2_coef=0.0)
    logps = []
    for q, base, tokens in sides:
        policy, reference = oracles.policy_logp(q, base, beta, beta), oracles.log_softmax(base)
        logps.append([float(p[range(len(tokens)), tokens].sum()) for p in (policy[:-1], reference[:-1])])
    (chosen, base_chosen), (rejected, base_rejected) = logps
    assert terms.loss.item() == pytest.approx(oracles.dpo_loss(chosen, rejected, base_chosen, base_rejected, beta))


def test_swapping_the_pair_flips_the_margin() -> None:
    sides = random_pair(6)
    kw = {"gamma": 0.9, "chi2_coef": 0.1}
    terms = preference_objective(*grids(sides, 0.3, 0.7), torch.tensor([True, False]), **kw)
    swapped = preference_objective(*grids(sides[::-1], 0.3, 0.7), torch.tensor([False, True]), **kw)
    torch.testing.assert_close(terms.return_chosen, swapped.return_rejected)
    torch.testing.assert_close(terms.chi2, swapped.chi2)


def test_padding_and_neighbours_change_nothing() -> None:
    pairs = [random_pair(seed, lengths) for seed, lengths in ((7, (5, 3)), (8, (2, 11)), (9, (1, 1)))]
    ended, kw = torch.tensor([True, True]), {"gamma": 0.95, "chi2_coef": 0.3, "sft_coef": 0.2}
    alone = [preference_objective(*grids(sides, 0.3, 0.7), ended, **kw).loss for sides in pairs]
    batch = grids([sides[0] for sides in pairs] + [sides[1] for sides in pairs], 0.3, 0.7, pad_to=13)
    together = preference_objective(*batch, torch.ones(6, dtype=torch.bool), **kw).loss
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_response_without_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least one unmasked token; rows \[1\]"):
        preference_objective(
            torch.zeros(2, 3),
            torch.zeros(2, 4),
            torch.zeros(2, 3),
            torch.tensor([3, 0]),
            torch.tensor([True, True]),
            gamma=1.0,
            chi2_coef=0.1,
        )

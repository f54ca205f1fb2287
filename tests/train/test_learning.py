"""Learning with a known answer: a token tree whose reward, and so whose best Q̂, is known."""

from __future__ import annotations

import itertools
import math

import oracles
import pytest
import torch
from conftest import make_base, randomize_adapter

from qadapter.data import PreferenceCollator
from qadapter.model import QAdapterForCausalLM, QConstants

PROMPT, ACTIONS = [1, 7, 8], [10, 20, 30]
# r(s₀, a) and r(s₀ a, a′): by its own reward 30 is the best first action; counting what follows, it is the worst.
# (Pairs only tell returns of whole responses. Tokens that no pair holds keep some mass, so the first state's values are
# known up to that mass alone: the differences here are large against it.)
FIRST = {10: 0.0, 20: 0.3, 30: 0.6}
SECOND = {(10, 10): 3.5, (10, 20): 2.0, (10, 30): 2.8, (20, 10): 0.2, (20, 20): 1.2, (20, 30): -0.5}
SECOND |= {(30, 10): -2.0, (30, 20): -1.0, (30, 30): -3.0}
RESPONSES = list(itertools.product(ACTIONS, ACTIONS))
TRUE_RETURN = {response: FIRST[response[0]] + SECOND[response] for response in RESPONSES}


def labelled_pairs(tied: bool) -> tuple[list[dict], torch.Tensor]:
    """Every pair of responses in both orders, and the share of each: Bradley-Terry's, or half and half where tied."""
    rows, shares = [], []
    for left, right in itertools.combinations(RESPONSES, 2):
        wins = 0.5 if tied else 1 / (1 + math.exp(TRUE_RETURN[right] - TRUE_RETURN[left]))
        for winner, loser, share in ((left, right, wins), (right, left, 1 - wins)):
            row = {
                "prompt_ids": PROMPT,
                "chosen_ids": [*winner, 2],
                "rejected_ids": [*loser, 2],
                "chosen_terminated": True,
                "rejected_terminated": True,
            }
            rows.append(row)
            shares.append(share)
    weights = torch.tensor(shares)
    return rows, weights / weights.sum()


def fit(model: QAdapterForCausalLM, tied: bool, steps: int, optimizer: str = "AdamW") -> QAdapterForCausalLM:
    rows, weights = labelled_pairs(tied)
    batch = PreferenceCollator(0)(rows)
    parameters = [p for p in model.parameters() if p.requires_grad]
    descent = getattr(torch.optim, optimizer)(parameters, lr=2e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
    for _ in range(steps):
        (weights * model(**batch).pair_loss).sum().backward()
        descent.step()
        schedule.step()
        descent.zero_grad()
    return model.eval()


def advantages(model: QAdapterForCausalLM, state: list[int]) -> list[float]:
    """Q̂ − Ṽ = α̃·log π̃ − α₀·log π₀ of the tree's actions in a state."""
    c = model.constants
    with torch.no_grad():
        ids = torch.tensor([state])
        policy = model(ids).logits[0, -1].log_softmax(-1)
        base = model(ids, strength=0.0, alpha_tilde=c.alpha_0).logits[0, -1].log_softmax(-1)
    return (c.alpha_tilde * policy - c.alpha_0 * base)[ACTIONS].tolist()


def kl_to_base(model: QAdapterForCausalLM) -> float:
    total = 0.0
    for state in ([*PROMPT], *([*PROMPT, a] for a in ACTIONS)):
        with torch.no_grad():
            base, policy = (model(torch.tensor([state]), strength=s).logits[0, -1].log_softmax(-1) for s in (0.0, 1.0))
        total += float((base.exp() * (base - policy)).sum())
    return total


@pytest.mark.parametrize(
    "constants",
    [
        QConstants("residual", alpha_0=0.5, alpha_tilde=0.5, chi2_coef=0.01),
        QConstants("logits", alpha_0=0.5, alpha_tilde=0.5, chi2_coef=0.01),
    ],
    ids=["residual", "logits"],
)
def test_the_learnt_q_orders_actions_rightly(constants: QConstants) -> None:
    torch.manual_seed(0)
    model = fit(QAdapterForCausalLM(make_base(), constants), tied=False, steps=100)
    for action in ACTIONS:
        learnt = advantages(model, [*PROMPT, action])
        true = [SECOND[action, a] for a in ACTIONS]
        assert sorted(range(3), key=learnt.__getitem__) == sorted(range(3), key=true.__getitem__)

    # In the first state the right order is that of reward plus soft value of what follows, by the oracle.
    values = []
    for action in ACTIONS:
        with torch.no_grad():
            z0 = (
                model(torch.tensor([[*PROMPT, action]]), strength=0.0, alpha_tilde=constants.alpha_0)
                .logits[0, -1]
                .double()
            )
        q = torch.full_like(z0, -50.0)
        q[ACTIONS] = torch.tensor([SECOND[action, a] for a in ACTIONS], dtype=torch.float64)
        values.append(FIRST[action] + float(oracles.soft_value(q, z0, constants.alpha_0, constants.alpha_tilde)))
    learnt = advantages(model, PROMPT)
    assert sorted(range(3), key=learnt.__getitem__) == sorted(range(3), key=values.__getitem__)


def test_the_learnt_returns_are_the_true_ones() -> None:
    """Differences of implied returns match the differences of true returns that labelled the pairs."""
    torch.manual_seed(0)
    constants = QConstants("residual", alpha_0=0.5, alpha_tilde=0.5, chi2_coef=0.001)
    model = fit(QAdapterForCausalLM(make_base(), constants), tied=False, steps=100)
    rows, _ = labelled_pairs(tied=False)
    batch = PreferenceCollator(0)(rows)
    with torch.no_grad():
        output = model(**batch)
    learnt = (output.return_chosen - output.return_rejected).double()
    true = torch.tensor(
        [TRUE_RETURN[tuple(r["chosen_ids"][:2])] - TRUE_RETURN[tuple(r["rejected_ids"][:2])] for r in rows]
    ).double()
    assert torch.corrcoef(torch.stack([learnt, true]))[0, 1] > 0.97


def test_with_all_pairs_tied_the_policy_stays_at_the_base() -> None:
    constants = QConstants("residual", alpha_0=0.5, alpha_tilde=0.5, chi2_coef=0.1)
    torch.manual_seed(0)
    # Adam would blow rounding errors of a zero gradient up to full steps; plain descent shows that it is zero.
    fresh = fit(QAdapterForCausalLM(make_base(), constants), tied=True, steps=30, optimizer="SGD")
    assert kl_to_base(fresh) < 1e-6
    drifted = randomize_adapter(QAdapterForCausalLM(make_base(), constants), std=0.15)
    before = kl_to_base(drifted)
    assert before > 0.05
    assert kl_to_base(fit(drifted, tied=True, steps=60)) < before

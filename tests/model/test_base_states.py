"""A batch that carries the base's part of the loss: the same losses and gradients, in one pass instead of two."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, PAPER, RESIDUAL, make_batch, make_model

from qadapter.core import BaseStates
from qadapter.errors import ConfigError
from qadapter.model import QAdapterForCausalLM, QConstants

CONSTANTS = [PAPER, RESIDUAL, QConstants("residual", 0.2, 0.5, gamma=0.9)]


def passes(model: QAdapterForCausalLM) -> list[str]:
    """Grows by the routed rows of each pass of the backbone."""
    seen: list[str] = []
    model.base.base_model.register_forward_pre_hook(lambda *_: seen.append(model.row_router.rows.value))
    return seen


@pytest.mark.parametrize("share", [True, False], ids=["one row", "two rows"])
@pytest.mark.parametrize("constants", CONSTANTS, ids=["paper", "residual", "residual, rho 0.4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_losses_and_gradients_without_the_base_pass(family: str, constants: QConstants, share: bool) -> None:
    """The first pair's chosen response is cut, so its last state is among them."""
    model, batch, found = make_model(family, constants).train(), make_batch(), []
    model.share_prefix = model.share_prefix and share
    seen = passes(model)
    states = model.base_states_of_pairs(**batch)
    assert seen == ["base"]
    assert (states.hidden is None) == (constants is RESIDUAL)
    for known, expected in ((None, ["base", "adapter"]), (states, ["adapter"])):
        seen.clear()
        model.zero_grad()
        output = model(**batch, base_states=known)
        output.loss.backward()
        assert seen == expected
        found.append((output, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    for without, with_states in zip(*(output for output, _ in found), strict=True):
        torch.testing.assert_close(with_states, without, rtol=1e-5, atol=1e-6)
    assert len(found[0][1]) == len(found[1][1]) > 0
    for without, with_states in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(with_states, without, rtol=1e-5, atol=1e-6)


def test_they_do_not_depend_on_the_adapter_or_the_neighbours(batch: dict[str, torch.Tensor]) -> None:
    one, other = make_model(), make_model()
    for name, parameter in other.named_parameters():
        if "lora_" in name:
            parameter.data.mul_(-3.0)
    states = one.base_states_of_pairs(**batch)
    assert all(torch.equal(a, b) for a, b in zip(states, other.base_states_of_pairs(**batch), strict=True))

    alone = [one.base_states_of_pairs(**{k: v[[pair, pair + 3]] for k, v in batch.items()}) for pair in range(3)]
    # The batch's order: all chosen responses, then all rejected ones. The first chosen response is cut: 5 + 1 states.
    counts = (batch["completion_mask"].sum(1) + (~batch["terminated"]).long()).tolist()
    assert counts[0] == 6
    expected = [states.logsumexp[:count] for states, count in zip(alone, counts[:3], strict=True)]
    expected += [states.logsumexp[count:] for states, count in zip(alone, counts[:3], strict=True)]
    torch.testing.assert_close(states.logsumexp, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_states_of_another_batch_are_refused(batch: dict[str, torch.Tensor]) -> None:
    model = make_model()
    states = model.base_states_of_pairs(**make_batch(pairs=2))
    with pytest.raises(ConfigError, match=r"base_states holds \d+ states, the responses of this batch have \d+"):
        model(**batch, base_states=states)


def test_wrong_states_change_the_loss(batch: dict[str, torch.Tensor]) -> None:
    """What is handed in is what is used."""
    model = make_model(constants=RESIDUAL)
    states = model.base_states_of_pairs(**batch)
    shifted = BaseStates(states.action_logits + 0.5, states.logsumexp, None)
    plain, changed = (model(**batch, base_states=known) for known in (states, shifted))
    torch.testing.assert_close(changed.q_mean, plain.q_mean - 0.5 * RESIDUAL.alpha_tilde)

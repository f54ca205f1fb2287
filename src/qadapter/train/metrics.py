"""The names under which a batch of pairs is logged: TRL's where TRL has one, and the method's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..model import PreferenceOutput


def preference_metrics(output: PreferenceOutput) -> dict[str, Tensor]:
    """The values of each metric, so that means over batches of any size stay means over pairs.

    Args:
        output: what the model's forward returned for a preference batch.

    Returns:
        Name → float tensor: `loss` of all pairs, `anchor/kl` of the anchors, everything else of the preference pairs.
        Rewards are in reward units, log-probabilities in nats summed over a response.
    """
    pairs = output.of_pairs(~output.anchor)
    return {
        "loss": output.pair_loss.detach(),
        "anchor/kl": output.anchor_kl[output.anchor],
        **{name: of_pairs(pairs) for name, of_pairs in _OF_PAIRS.items()},
    }


def _margin(pairs: PreferenceOutput) -> Tensor:
    return pairs.return_chosen - pairs.return_rejected


_OF_PAIRS: dict[str, Callable[[PreferenceOutput], Tensor]] = {
    "rewards/chosen": lambda pairs: pairs.return_chosen,
    "rewards/rejected": lambda pairs: pairs.return_rejected,
    "rewards/accuracies": lambda pairs: (_margin(pairs) > 0).float(),
    "rewards/margins": _margin,
    "logps/chosen": lambda pairs: pairs.logp_chosen,
    "logps/rejected": lambda pairs: pairs.logp_rejected,
    "logps/base_chosen": lambda pairs: pairs.base_logp_chosen,
    "logps/base_rejected": lambda pairs: pairs.base_logp_rejected,
    "preference_loss": lambda pairs: pairs.preference_loss,
    "chi2": lambda pairs: pairs.chi2,
    "nll/chosen": lambda pairs: pairs.chosen_nll,
    "q/mean": lambda pairs: pairs.q_mean,
    "v/mean": lambda pairs: pairs.v_mean,
}
EVALUATED = ("loss", *_OF_PAIRS)
"""What an evaluation of held-out pairs gives, under `eval_` and these names."""

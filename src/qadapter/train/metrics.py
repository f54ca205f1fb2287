"""The names under which a batch of pairs is logged: TRL's where TRL has one, and the method's own."""

from __future__ import annotations

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
    of_all = output.pair_loss.detach()
    anchors = output.anchor_kl[output.anchor]
    output = output.of_pairs(~output.anchor)
    margin = output.return_chosen - output.return_rejected
    return {
        "loss": of_all,
        "anchor/kl": anchors,
        "rewards/chosen": output.return_chosen,
        "rewards/rejected": output.return_rejected,
        "rewards/accuracies": (margin > 0).float(),
        "rewards/margins": margin,
        "logps/chosen": output.logp_chosen,
        "logps/rejected": output.logp_rejected,
        "logps/base_chosen": output.base_logp_chosen,
        "logps/base_rejected": output.base_logp_rejected,
        "preference_loss": output.preference_loss,
        "chi2": output.chi2,
        "nll/chosen": output.chosen_nll,
        "q/mean": output.q_mean,
        "v/mean": output.v_mean,
    }

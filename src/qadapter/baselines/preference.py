"""DPO, IPO, KTO and ORPO through TRL.

TRL would take the LoRA's dropout out of these, and leave it in SFT: here all methods keep it, and the base has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, DataError
from .arguments import CommonArguments
from .method import Hyperparameter, Method, Run, Trained, optimization
from .training_pairs import tokenized_batches
from .trl_run import train_policy, trl_allowed, trl_arguments

_IGNORED = -100


def train_dpo(run: Run) -> Trained:
    """`trl.DPOTrainer`; the base is the reference (TRL takes the LoRA out for it). Source: arXiv 2305.18290."""
    return _direct(run, "sigmoid")


def train_ipo(run: Run) -> Trained:
    """`trl.DPOTrainer` with the squared loss of IPO on mean log-ratios per token. Source: arXiv 2310.12036."""
    return _direct(run, "ipo")


def _direct(run: Run, loss_type: str) -> Trained:
    with trl_allowed():
        from trl import DPOConfig, DPOTrainer

        own = run.hyperparameters
        config = DPOConfig(
            max_length=None, loss_type=loss_type, beta=own["beta"], disable_dropout=False, **trl_arguments(run)
        )
        return train_policy(run, DPOTrainer, config, tokenized_batches(run))


def train_kto(run: Run) -> Trained:
    """`trl.KTOTrainer`; each pair is one desirable and one undesirable answer. Source: arXiv 2402.01306.

    Its KL term pairs each prompt of a batch with the answer before it, so the chosen answers of a batch come first,
    then the rejected ones: no prompt is paired with an answer of its own.

    Raises:
        DataError: a single pair, which has no other answers.
    """
    with trl_allowed():
        from trl import KTOConfig, KTOTrainer

        own = run.hyperparameters
        config = KTOConfig(
            max_length=None,
            beta=own["beta"],
            desirable_weight=own["desirable_weight"],
            undesirable_weight=own["undesirable_weight"],
            disable_dropout=False,
            **trl_arguments(run, rows_per_pair=2),
        )
        pairs = tokenized_batches(run)
        if sum(map(len, pairs)) < 2:
            raise DataError("KTO needs at least 2 pairs: its KL term comes from the answers to other prompts.")
        batches = [kto_rows(batch, pairs[number - 1]) for number, batch in enumerate(pairs)]
        return train_policy(run, KTOTrainer, config, batches, rows_per_pair=2)


def check_kto(common: CommonArguments, _hyperparameters: Mapping[str, Any]) -> None:
    """Refuse batches of one pair, in which every prompt would be paired with an answer of its own."""
    if common.per_device_train_batch_size < 2:
        raise ConfigError(
            "per_device_train_batch_size must be at least 2 for KTO, whose KL term comes from the other prompts of the "
            "batch."
        )


def kto_rows(batch: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `trl.KTOTrainer` for a batch of pairs: all chosen, then all rejected.

    Args:
        batch: of pairs.
        before: another one; where the last batch holds a single pair, that is paired with an answer out of it.
    """
    rows = [
        {"prompt_ids": pair["prompt_ids"], "completion_ids": pair[f"{side}_ids"], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for pair in batch
    ]
    others = [row["completion_ids"] for row in rows] if len(batch) > 1 else [before[-1]["chosen_ids"]] * 2
    return [{**row, "KL_completion_ids": others[index - 1]} for index, row in enumerate(rows)]


def train_orpo(run: Run) -> Trained:
    """TRL's ORPOTrainer, which is among its experimental ones. Source: arXiv 2403.07691.

    It needs no reference. TRL takes the likelihood term of its loss over the prompt too, as the paper does.
    """
    with trl_allowed():
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        # Applied to the one pair of text alone; None would be replaced by 512 with a warning.
        config = ORPOConfig(
            max_length=run.common.max_length,
            beta=run.hyperparameters["beta"],
            disable_dropout=False,
            **trl_arguments(run),
        )
        return train_policy(
            run, ORPOTrainer, config, [[orpo_row(pair) for pair in batch] for batch in tokenized_batches(run)]
        )


def orpo_row(pair: dict[str, Any]) -> dict[str, list[int]]:
    """The row of TRL's ORPOTrainer for a pair: both sequences whole, the labels on the responses."""
    prompt = pair["prompt_ids"]
    row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        response = pair[f"{side}_ids"]
        row[f"{side}_input_ids"] = [*prompt, *response]
        row[f"{side}_attention_mask"] = [1] * (len(prompt) + len(response))
        row[f"{side}_labels"] = [_IGNORED] * len(prompt) + [*response]
    return row


DPO = Method(
    "direct preference optimization",
    train_dpo,
    optimization(5e-4) | {"beta": Hyperparameter("weight of the KL to the base: small lets the policy move far", 0.1)},
)
IPO = Method(
    "identity preference optimization: a squared loss that stops at a margin",
    train_ipo,
    optimization(5e-4) | {"beta": Hyperparameter("τ: the margin aimed at is 1/(2τ), nats per token", 0.1)},
)
KTO = Method(
    "Kahneman-Tversky optimization: each answer by itself is desirable or not",
    train_kto,
    optimization(5e-4)
    | {
        "beta": Hyperparameter("weight of the KL to the base", 0.1),
        "desirable_weight": Hyperparameter("weight of the chosen answers", 1.0),
        "undesirable_weight": Hyperparameter("weight of the rejected answers", 1.0),
    },
    check=check_kto,
)
ORPO = Method(
    "odds-ratio preference optimization: SFT and a preference term, without a reference",
    train_orpo,
    optimization(5e-4) | {"beta": Hyperparameter("λ: weight of the odds-ratio term", 0.1)},
)

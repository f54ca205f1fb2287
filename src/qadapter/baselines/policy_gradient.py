"""Policy gradients with a KL penalty to the base: RLOO on a reward model's rewards.

The paper's baseline is PPO. PPO has left TRL; RLOO takes its place: the same objective (reward minus β times the KL to
the base, on the policy's own answers), with the other answers to a prompt as the baseline instead of a value network.
Source: Ahmadian et al., Back to Basics (arXiv 2402.14740).
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import encode_prompt
from ..errors import ConfigError
from ..generate.answers import refuse_without_room
from ..model import training_device
from ..model.loading import load_base_config
from ..model.positions import positions_of
from ..model.reward_classifier import reward_classifier, reward_tokenizer
from ..model.reward_tokens import noted_training
from .arguments import CommonArguments
from .content import content_of_common
from .method import Hyperparameter, Method, Run, Trained, optimization
from .reward_function import RewardFunction
from .reward_model import REWARD, train_reward_model, what_it_reads
from .shared_file import digest_of, made_once
from .trl_run import train_policy, trl_allowed, trl_arguments

logger = logging.getLogger(__name__)

_SECONDS = "training_seconds.json"


def train_rloo(run: Run) -> Trained:
    """`trl.RLOOTrainer` on the prompts of the pairs.

    The reward model is the one that is named, or is trained on the same pairs first. A step sees as many prompts as the
    steps of other methods see pairs; the answers are the policy's own, and go through the policy as many at a time as
    there are pairs in a batch: the loss is a mean over answers, so the gradient is that of all of them at once.

    Raises:
        ConfigError: fewer prompts than one step takes, or a reward model whose weights cannot be had.
        DataError: a prompt that with an answer takes more positions than the base has, or that the reward model does
            not read.
    """
    own = run.hyperparameters
    prompts = _prompts(run)
    if own["reward_model"] is None:
        reward_name, seconds = _own_reward_model(run)
        # Folders of earlier releases do not say what they were trained on.
        tokenizer, trained_on = run.tokenizer, what_it_reads(run)
    else:
        reward_name, seconds = own["reward_model"], {}
        tokenizer, trained_on = reward_tokenizer(reward_name), None
    classifier = reward_classifier(reward_name).to(training_device(run.common.use_cpu))
    reward = RewardFunction(
        classifier,
        tokenizer,
        trained_on or noted_training(classifier.config),
        policy_tokenizer=run.tokenizer,
        max_completion_length=own["max_completion_length"],
        batch_size=run.common.per_device_train_batch_size,
    )
    with trl_allowed():
        from trl import RLOOConfig, RLOOTrainer

        shared = trl_arguments(run)
        shared["gradient_accumulation_steps"] *= own["num_generations"]
        config = RLOOConfig(
            beta=own["beta"],
            num_generations=own["num_generations"],
            max_completion_length=own["max_completion_length"],
            temperature=own["temperature"],
            **shared,
        )
        trainer_class = functools.partial(RLOOTrainer, reward_funcs=reward)
        return train_policy(run, trainer_class, config, [prompts], seconds=seconds)


def _prompts(run: Run) -> list[dict[str, object]]:
    """The prompts of the pairs that all methods train on, less what does not fill a step."""
    common = run.common
    prompts = [{"prompt": prompt} for prompt in run.pairs["prompt"]]
    encoded = [encode_prompt(prompt, run.tokenizer) for prompt in run.pairs["prompt"]]
    positions = positions_of(load_base_config(common.model, revision=common.revision))
    longest = run.hyperparameters["max_completion_length"]
    refuse_without_room(encoded, positions, longest, name="max_completion_length")
    per_step = common.per_device_train_batch_size * common.gradient_accumulation_steps
    used = len(prompts) // per_step * per_step
    if not used:
        raise ConfigError(
            f"rloo has {len(prompts)} prompts, and one step takes {per_step}.",
            hint="lower per_device_train_batch_size or gradient_accumulation_steps",
        )
    if used < len(prompts):
        logger.warning("rloo leaves out the last %d prompts: TRL takes whole steps only.", len(prompts) - used)
    return prompts[:used]


def _check(_common: CommonArguments, hyperparameters: Mapping[str, Any]) -> None:
    if not hyperparameters["temperature"] > 0:
        raise ConfigError(
            "temperature of rloo must be above 0: with greedy answers all answers to a prompt are the same."
        )
    if (name := hyperparameters["reward_model"]) is not None:
        reward_tokenizer(name)


def _own_reward_model(run: Run) -> tuple[Path, dict[str, float]]:
    """The folder of a reward model on the run's own pairs, and the seconds its training took when it was done."""
    reward_run = run._replace(
        hyperparameters={"learning_rate": run.hyperparameters["reward_learning_rate"], "num_train_epochs": None}
    )
    common = content_of_common(run.common)
    inputs = [common, dict(reward_run.hyperparameters), run.seed, run.pairs.to_list()]

    def make(folder: Path) -> None:
        trained = train_reward_model(reward_run._replace(output_dir=folder))
        trained.model.save_pretrained(folder)
        run.tokenizer.save_pretrained(folder)
        (folder / _SECONDS).write_text(json.dumps(sum(trained.seconds.values())), encoding="utf-8")

    folder = made_once(run.shared_dir / f"reward-{digest_of(inputs)}", make)
    return folder, {"reward model": json.loads((folder / _SECONDS).read_text(encoding="utf-8"))}


RLOO = Method(
    "policy gradients with a KL penalty to the base, on a reward model's rewards (in the place of PPO)",
    train_rloo,
    optimization(1e-4)
    | {
        "beta": Hyperparameter("weight of the KL penalty", 0.05),
        "num_generations": Hyperparameter("answers to each prompt, at least 2", 4, int, least=2),
        "max_completion_length": Hyperparameter("most tokens of an answer", 128, int, least=1),
        "temperature": Hyperparameter("of the sampled answers", 1.0),
        "reward_model": Hyperparameter("folder or hub id of a reward model; default: one on the same pairs", kind=str),
        "reward_learning_rate": Hyperparameter(
            "peak learning rate of that reward model", REWARD.hyperparameters["learning_rate"].default
        ),
    },
    check=_check,
)

"""A reward model as the judge: a sequence classifier of transformers with one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import DataError
from ...generate import Answer
from ...model import decoding_device
from ...model.reward_classifier import reward_classifier, reward_tokenizer, rewards_of
from ...model.reward_tokens import noted_training, reward_ids
from .judge import Verdict


class RewardModel:
    """Judges by the reward of prompt + answer, in the tokens of `reward_ids`.

    What a reward model of ours was trained on it is given to read; another one reads what its own chat template writes.
    Nothing is cut: what is longer than the reward model reads gets a verdict without a score.

    Args:
        model: with one output; put in eval mode.
        tokenizer: its own, with a chat template unless the model was trained on strings.
        label: names it in the judge's name.
        device: where it is while it judges; None leaves it where it is.
        batch_size: texts per batch; no result depends on it.
    """

    kind = "reward_model"
    needs_reference = False
    cost: dict[str, Any] | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label: str,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> None:
        self._device = model.device if device is None else device
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, f"reward:{label}"
        config = model.config.get_text_config()
        self._batch_size, self._trained_on = batch_size, noted_training(model.config)
        limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
        self._max_length = min(limit for limit in limits if limit is not None)

    def check(self, *, may_be_cached: bool = False) -> None:
        """Nothing: what could be wrong showed when it was made."""

    @torch.inference_mode()
    def judge(
        self,
        prompts: Sequence[list[dict[str, str]]],
        answers: Sequence[Answer],
        references: Sequence[Answer] | None = None,
    ) -> list[Verdict]:
        """The reward of every answer, in batches of like length."""
        verdicts: dict[int, Verdict] = {}
        encoded: dict[int, list[int]] = {}
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            try:
                ids = reward_ids(
                    self.tokenizer, prompt, answer.text, answer.token_ids, finished=answer.finished,
                    trained_on=self._trained_on,
                )  # fmt: skip
            except DataError as error:
                verdicts[index] = Verdict(None, str(error))
                continue
            except jinja2.TemplateError as error:
                verdicts[index] = Verdict(None, f"the reward model's chat template refuses the prompt: {error}")
                continue
            if len(ids) > self._max_length:
                verdicts[index] = Verdict(None, f"{len(ids)} tokens; the reward model reads {self._max_length}")
            else:
                encoded[index] = ids
        order = sorted(encoded, key=lambda index: len(encoded[index]))
        with self._on_its_device():
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                for index, reward in zip(batch, self._rewards([encoded[i] for i in batch]), strict=True):
                    is_number = reward == reward
                    verdicts[index] = Verdict(reward) if is_number else Verdict(None, "the reward is not a number")
        return [verdicts[index] for index in range(len(answers))]

    @contextmanager
    def _on_its_device(self) -> Iterator[None]:
        """On the GPU while it judges: between two calls a comparison trains, and needs the room."""
        resting = self.model.device
        self.model.to(self._device)
        try:
            yield
        finally:
            self.model.to(resting)

    def _rewards(self, rows: list[list[int]]) -> list[float]:
        return rewards_of(self.model, rows, batch_size=self._batch_size)


def load_reward_model(name: str | Path, *, batch_size: int = 8) -> RewardModel:
    """Load a reward model. It judges on the GPU if there is one.

    Args:
        name: folder or hub id; safetensors, and no code that comes with the model is run.
        batch_size: texts per batch.

    Raises:
        ConfigError: it cannot be loaded, has several outputs, weights are missing (transformers would draw them at
            random), or its tokenizer has no chat template and it was not trained on strings.
    """
    tokenizer = reward_tokenizer(name)
    return RewardModel(reward_classifier(name), tokenizer, str(name), device=decoding_device(), batch_size=batch_size)

"""The rewards that RLOO trains on: a reward model on the tokens that it was trained on.

TRL would decode the answers and tokenize the text anew: strings without BOS and EOS, and conversations with an end of
turn also where the answer was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import end_of_turn_id
from ..model.reward_classifier import rewards_of
from ..model.reward_tokens import reward_ids


class RewardFunction:
    """A reward function as TRL's trainers call it.

    Args:
        model: with one output, in eval mode and on its device.
        tokenizer: its own.
        trained_on: as in `reward_ids`.
        policy_tokenizer: says what ends an answer.
        max_completion_length: an answer of so many tokens was cut, unless its last one ends it.
        batch_size: answers at a time; no reward depends on it beyond rounding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trained_on: str | None,
        *,
        policy_tokenizer: PreTrainedTokenizerBase,
        max_completion_length: int,
        batch_size: int,
    ) -> None:
        self.model, self.tokenizer, self.trained_on = model, tokenizer, trained_on
        self._ends = {policy_tokenizer.eos_token_id, end_of_turn_id(policy_tokenizer)}
        self._longest, self._batch_size = max_completion_length, batch_size

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[list[int]], **_: Any
    ) -> list[float]:
        """The rewards, one per answer; prompts and completions both strings or both messages."""
        rows = [
            reward_ids(
                self.tokenizer,
                prompt,
                completion if isinstance(completion, str) else completion[0]["content"],
                ids,
                finished=len(ids) < self._longest or ids[-1] in self._ends,
                trained_on=self.trained_on,
            )
            for prompt, completion, ids in zip(prompts, completions, completion_ids, strict=True)
        ]
        return rewards_of(self.model, rows, batch_size=self._batch_size)

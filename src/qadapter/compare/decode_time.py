"""What decoding costs beside the base: both in turn, on the same prompts, for the same number of tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..evaluate.policy import policy_at
from ..generate import answer_prompts
from ..model import QAdapterForCausalLM

_PROMPTS, _NEW_TOKENS, _TURNS = 8, 32, 3


def decode_time(
    model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], strength: float
) -> dict[str, float]:
    """Seconds per generated token of a policy and of the base.

    The policies take turns, so that what else the machine does meets both, and every answer has the same number of
    tokens. The first turn of each only warms up.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompts: plain texts that are continued, a few of them in one batch.
        strength: of the policy.

    Returns:
        seconds_per_token, base_seconds_per_token (medians) and vs_base, the median of the turns' quotients.
    """
    texts = list(prompts[:_PROMPTS])

    def seconds(strength: float) -> float:
        started = time.perf_counter()
        answer_prompts(
            model, tokenizer, texts, max_new_tokens=_NEW_TOKENS, min_new_tokens=_NEW_TOKENS, batch_size=len(texts),
            **policy_at(model, strength),
        )  # fmt: skip
        return (time.perf_counter() - started) / (len(texts) * _NEW_TOKENS)

    turns = [(seconds(0.0), seconds(strength)) for _ in range(1 + _TURNS)][1:]
    return {
        "seconds_per_token": statistics.median(ours for _, ours in turns),
        "base_seconds_per_token": statistics.median(base for base, _ in turns),
        "vs_base": statistics.median(ours / base for base, ours in turns),
    }

"""Answers of the mixed policy to a list of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data import encode_prompt, end_of_turn_id
from ..errors import DataError
from ..model import QAdapterForCausalLM
from ..model.plain_decoding import without_recommended_decoding

Dial = float | Sequence[float] | None


class Answer(NamedTuple):
    """One generated answer."""

    text: str
    """Without special tokens, stripped."""
    token_ids: list[int]
    """Up to and with the end-of-turn token."""
    finished: bool
    """Whether the end-of-turn token came before max_new_tokens."""


@torch.inference_mode()
def answer_prompts(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[dict[str, str]]],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    strength: Dial = None,
    alpha_0: Dial = None,
    alpha_tilde: Dial = None,
    on_batch: Callable[[int], None] | None = None,
    **generate_kwargs: Any,
) -> list[Answer]:
    """Answer prompts in batches of like length; what the base's generation config recommends is left out.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer.
        prompts: message lists (the chat template is applied), or strings that are continued as they are.
        max_new_tokens: most tokens of an answer.
        batch_size: prompts per batch.
        strength, alpha_0, alpha_tilde: the dials of `generate`: one for all prompts, or one per prompt.
        on_batch: called with the number of prompts answered so far.
        **generate_kwargs: for `generate`, such as do_sample and temperature. Greedy where nothing is said.

    Returns:
        The answers in the order of the prompts.

    Raises:
        DataError: what `encode_prompts` raises.
    """
    model.eval()
    encoded = encode_prompts(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
    ends = stop_ids(model, tokenizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    dials = {"strength": strength, "alpha_0": alpha_0, "alpha_tilde": alpha_tilde}
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = max(len(encoded[index]) for index in batch)
        rows = [[pad_id] * (longest - len(encoded[index])) + encoded[index] for index in batch]
        mask = [[0] * (longest - len(encoded[index])) + [1] * len(encoded[index]) for index in batch]
        with without_recommended_decoding(model):
            output = model.generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                **{name: _rows_of(dial, batch) for name, dial in dials.items()},
                pad_token_id=pad_id,
                eos_token_id=ends,
                **{"do_sample": False, **generate_kwargs},
            )
        for index, row in zip(batch, output[:, longest:].tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in ends), None)
            ids = row if end is None else row[: end + 1]
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            answers[index] = Answer(text=text, token_ids=ids, finished=end is not None)
        if on_batch is not None:
            on_batch(len(answers))
    return [answers[index] for index in range(len(prompts))]


def encode_prompts(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[dict[str, str]]],
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """The token ids of prompts, each with room for an answer.

    `generate` itself goes on beyond the positions that a model was trained for, where its embedding allows it.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompts: message lists, or strings.
        max_new_tokens: most tokens of an answer.

    Returns:
        The ids of each prompt.

    Raises:
        DataError: messages, but no chat template; or, naming its number, a prompt that with an answer takes more
            positions than the model has.
    """
    encoded = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    refuse_without_room(encoded, model.max_positions, max_new_tokens)
    return encoded


def refuse_without_room(
    encoded: Sequence[Sequence[int]], positions: int | None, max_new_tokens: int, *, name: str = "max_new_tokens"
) -> None:
    """Stop where a prompt leaves no room for an answer.

    Args:
        encoded: the token ids of prompts.
        positions: tokens that the model can number; None where it has no limit.
        max_new_tokens: most tokens of an answer.
        name: of the setting that says so.

    Raises:
        DataError: a prompt that with an answer takes more positions than the model has; it names its number.
    """
    for number, ids in enumerate(encoded, start=1):
        if positions is not None and len(ids) + max_new_tokens > positions:
            raise DataError(
                f"prompt {number} of {len(encoded)} has {len(ids)} tokens; with an answer of up to {max_new_tokens} "
                f"that is more than the model's {positions} positions.",
                hint=f"shorten it, or allow shorter answers ({name})",
            )


def _rows_of(dial: Dial, batch: Sequence[int]) -> Dial:
    return dial if dial is None or isinstance(dial, (int, float)) else [dial[index] for index in batch]


def stop_ids(model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What ends an answer: the end-of-turn token that training used, and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    ids = [end_of_turn_id(tokenizer), *(configured if isinstance(configured, list) else [configured])]
    return sorted({token for token in ids if token is not None})

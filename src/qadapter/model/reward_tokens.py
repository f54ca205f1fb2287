"""The tokens that a reward model is given to read of a prompt and an answer.

One that was trained here says in its config on what, and reads the same again: prompt and answer as the policy has
them, and the end of a turn where the answer ended by itself. What another one was trained on is not known; it reads
what its own chat template writes, which ends every answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..data import end_of_turn_id, tokenize_pair
from ..errors import DataError

Messages = list[dict[str, str]]

STRINGS, CONVERSATIONS = "strings", "conversations"
_FIELD = "qadapter_trained_on"


def note_training(config: PretrainedConfig, trained_on: str) -> None:
    """Write into a reward model's config what its pairs were: `STRINGS` or `CONVERSATIONS`."""
    setattr(config, _FIELD, trained_on)


def noted_training(config: PretrainedConfig) -> str | None:
    """What the config says of it; None where nothing."""
    found = getattr(config, _FIELD, None)
    return found if found in (STRINGS, CONVERSATIONS) else None


def reward_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    text: str,
    token_ids: Sequence[int],
    *,
    finished: bool,
    trained_on: str | None,
) -> list[int]:
    """The tokens of a prompt and an answer.

    Args:
        tokenizer: the reward model's.
        prompt: a string or messages.
        text: the answer.
        token_ids: as the policy wrote it, its end included; used where they are the same text to this tokenizer. May
            be empty.
        finished: whether the answer ended by itself.
        trained_on: what the reward model was trained on; None where it is not known.

    Raises:
        DataError: a conversation of several messages for a reward model that was trained on strings, or messages that
            the chat template refuses.
        jinja2.TemplateError: the same, where `trained_on` is None.
    """
    if trained_on is None:
        messages = [*_as_messages(prompt), {"role": "assistant", "content": text}]
        # The template writes its own special tokens.
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        return tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
    row: dict[str, Any]
    if trained_on == STRINGS:
        row = {"prompt": _as_string(prompt), "chosen": text, "rejected": text}
    else:
        answer = [{"role": "assistant", "content": text}]
        row = {"prompt": _as_messages(prompt), "chosen": answer, "rejected": answer}
    pair = tokenize_pair(row, tokenizer, None)
    *ids, end = pair.chosen_ids
    if token_ids and tokenizer.decode(token_ids, skip_special_tokens=True).strip() == text.strip():
        # With the white space at its begin, and parted as the policy parts it.
        ids = list(token_ids[:-1] if finished else token_ids)
    if finished:
        ids += [end, *(turn_tail(tokenizer) if trained_on == CONVERSATIONS else [])]
    return pair.prompt_ids + ids


def turn_tail(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the chat template writes after the end of a turn (a newline, say).

    No action of a policy, but part of the text that a reward model is given to read.
    """
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]
    ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
    end = end_of_turn_id(tokenizer)
    return ids[len(ids) - ids[::-1].index(end) :] if end in ids else []


def _as_messages(prompt: str | Messages) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _as_string(prompt: str | Messages) -> str:
    """Judges are given a string as a user's message."""
    if isinstance(prompt, str):
        return prompt
    if [message["role"] for message in prompt] != ["user"]:
        raise DataError(
            "the reward model was trained on strings, and this prompt is a conversation of several messages"
        )
    return prompt[0]["content"]

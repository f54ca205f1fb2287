"""From a preference pair as text to a pair as tokens, with an exact boundary between prompt and response.

The prompt's tokens are those that generation will start from; a response ends with its end-of-turn token, the last
action of the policy. What a chat template writes after that token (a newline, say) is nobody's action and left out.

Some chat templates write today's date (Llama 3.2). In pairs it is always the same day, so that a run can go on after
midnight and another day's run sees the same tokens, and so in anchors; prompts that are answered for a user get the day
they are answered on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..errors import DataError

# What Llama 3's templates write where they are given no clock.
DAY_OF_PAIRS = datetime(2024, 7, 26)
"""What a chat template takes for today in everything that is trained on."""
_CLOCK = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


class TokenizedPair(NamedTuple):
    """Token ids of a pair. The sequences of the pair are prompt + chosen and prompt + rejected."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    """Cut so that prompt + chosen has at most `max_length` tokens."""
    rejected_ids: list[int]
    chosen_terminated: bool
    """Whether `chosen_ids` ends with its end-of-turn token; False where it was cut."""
    rejected_terminated: bool
    chosen_cut_ids: list[int]
    """What was cut off; empty where nothing was."""
    rejected_cut_ids: list[int]


class NoRoomError(DataError):
    """The prompt alone takes `max_length` tokens or more."""


class RefusedByTemplateError(DataError):
    """The chat template raises an error on the messages of a row, such as on a system message."""


def tokenize_pair(pair: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> TokenizedPair:
    """Tokenize one pair.

    Args:
        pair: prompt, chosen and rejected; all message lists, or all strings.
        tokenizer: with a chat template where the pair is messages.
        max_length: largest number of tokens of prompt + response; None for no limit. Prompts are never cut.

    Returns:
        The tokens; responses that did not fit are cut at their end and marked as not terminated.

    Raises:
        NoRoomError: the prompt leaves no room for a response.
        RefusedByTemplateError: the chat template does not take the messages.
        DataError: no chat template, or one whose text for prompt + response does not begin with its prompt.
    """
    prompt, conversational = pair["prompt"], not isinstance(pair["prompt"], str)
    prompt_ids = encode_prompt(prompt, tokenizer, day=DAY_OF_PAIRS)
    end_id = end_of_turn_id(tokenizer) if conversational else tokenizer.eos_token_id
    response_ids = _encode_conversational_response if conversational else _encode_standard_response
    chosen_ids, rejected_ids = (
        _end_at_turn(response_ids(prompt, prompt_ids, pair[side], tokenizer), end_id, tokenizer)
        for side in ("chosen", "rejected")
    )
    room = None if max_length is None else max_length - len(prompt_ids)
    if room is not None and room < 1:
        raise NoRoomError(f"the prompt has {len(prompt_ids)} tokens and max_length is {max_length}: no room to answer")
    return TokenizedPair(
        prompt_ids=prompt_ids,
        chosen_ids=chosen_ids[:room],
        rejected_ids=rejected_ids[:room],
        chosen_terminated=room is None or len(chosen_ids) <= room,
        rejected_terminated=room is None or len(rejected_ids) <= room,
        chosen_cut_ids=[] if room is None else chosen_ids[room:],
        rejected_cut_ids=[] if room is None else rejected_ids[room:],
    )


def encode_prompt(
    prompt: str | list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, day: datetime | None = None
) -> list[int]:
    """The tokens that generation starts from; training uses the same.

    A chat template writes its own special tokens, so none are added to its text: no second BOS. Nor to a string that
    begins with one.

    Args:
        prompt: messages or a string.
        tokenizer: the base model's.
        day: what a chat template takes for today; default today.

    Raises:
        DataError: messages, but the tokenizer has no chat template, or one that refuses them.
    """
    if isinstance(prompt, str):
        begun = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
        ids = tokenizer(prompt, add_special_tokens=not begun)["input_ids"]
        if begun or len(ids) < 2 or ids[-1] != tokenizer.eos_token_id:
            return ids
        # Some tokenizers add an EOS, after which no model goes on. One that the prompt itself ends with stays.
        own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        added = _trailing(ids, ids[-1]) > _trailing(own, ids[-1])
        return ids[:-1] if added else ids
    return _encode_chat(_render(prompt, tokenizer, day, add_generation_prompt=True), tokenizer)


def user_turn_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the chat template writes before the text of the first user's turn, on the day of pairs."""
    marker = "beginning of turn probe"
    text = _render([{"role": "user", "content": marker}], tokenizer, DAY_OF_PAIRS, add_generation_prompt=False)
    return _encode_chat(text.partition(marker)[0], tokenizer)


def written_before_answers(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes before an answer's own text and after the prompt that generation starts from.

    Both responses of every pair then begin with it: the empty thought of Qwen3's templates, for example. Empty where
    there is no such text.
    """
    marker = "beginning of answer probe"
    turns = _probe(marker, tokenizer)
    prompt = _render(turns[:-1], tokenizer, DAY_OF_PAIRS, add_generation_prompt=True)
    full = _render(turns, tokenizer, DAY_OF_PAIRS, add_generation_prompt=False)
    before, found, _ = full.removeprefix(prompt).partition(marker)
    return before if found and full.startswith(prompt) else ""


def _probe(answer: str, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """A conversation that ends with an answer; with a system message where the template wants one."""
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": answer}]
    try:
        _render(turns, tokenizer, None, add_generation_prompt=False)
    except RefusedByTemplateError:
        return [{"role": "system", "content": "Answer."}, *turns]
    return turns


def _trailing(ids: list[int], last: int) -> int:
    """How often a token stands at the end."""
    return next((count for count, token in enumerate(reversed(ids)) if token != last), len(ids))


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an assistant's turn: the first special one that the chat template writes after its text.

    Returns:
        The id; the tokenizer's EOS where there is no template or it writes no special token; None without either.
    """
    if tokenizer.chat_template:
        marker = "end of turn probe"
        turns = _probe(marker, tokenizer)
        after = _render(turns, tokenizer, None, add_generation_prompt=False).rpartition(marker)[2]
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        for token in _encode_chat(after, tokenizer):
            if token in special:
                return token
    return tokenizer.eos_token_id


def _encode_conversational_response(
    prompt: list[dict[str, str]],
    prompt_ids: list[int],
    response: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[int]:
    prompt_text = _render(prompt, tokenizer, DAY_OF_PAIRS, add_generation_prompt=True)
    full_text = _render(prompt + response, tokenizer, DAY_OF_PAIRS, add_generation_prompt=False)
    if not full_text.startswith(prompt_text):
        raise DataError(
            "the chat template's text for prompt + response does not begin with its text for the prompt, so the "
            "boundary between the two cannot be found.",
            hint="use a chat template that only appends",
        )
    return _after_prompt(prompt_ids, _encode_chat(full_text, tokenizer), full_text[len(prompt_text) :], tokenizer)


def _encode_standard_response(
    prompt: str, prompt_ids: list[int], response: str, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    return _after_prompt(prompt_ids, encode_prompt(prompt + response, tokenizer), response, tokenizer)


def _after_prompt(
    prompt_ids: list[int], full_ids: list[int], response_text: str, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    if full_ids[: len(prompt_ids)] == prompt_ids:
        return full_ids[len(prompt_ids) :]
    # A token spans the boundary. Generation cannot produce it, since it starts after the prompt's own tokens. Behind a
    # line break, since tokenizers of the SentencePiece family put a space before a text that stands alone.
    line_break, alone, behind = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", response_text, f"\n{response_text}")
    )
    return behind[len(line_break) :] if behind[: len(line_break)] == line_break else alone


def _end_at_turn(response_ids: list[int], end_id: int | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The response up to its last end-of-turn token, which is added where the text has none at its end."""
    if end_id is None:
        raise DataError("the tokenizer has no EOS token and its chat template ends turns with no special token.")
    if end_id in response_ids:
        last = len(response_ids) - response_ids[::-1].index(end_id)
        if not tokenizer.decode(response_ids[last:], skip_special_tokens=True).strip():
            return response_ids[:last]
    return [*response_ids, end_id]


def _render(
    messages: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    day: datetime | None,
    *,
    add_generation_prompt: bool,
) -> str:
    template = chat_template_of(tokenizer)
    if day is not None:
        # transformers passes templates plain data alone, so the clock cannot be handed over.
        template = _CLOCK.sub(lambda call: f"{call[1]}{day.strftime(call[2])}{call[1]}", template)
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise RefusedByTemplateError(f"the chat template refuses the messages: {error}") from error


def chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that `apply_chat_template` takes; of several that which is named `default`.

    Raises:
        DataError: there is none, or of several none is the default.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, but the data are conversations.",
            hint="use an instruction-tuned model, or convert the data to prompt/chosen/rejected strings",
        )
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise DataError(
            f"of the chat templates of {tokenizer.name_or_path!r} ({', '.join(tokenizer.chat_template)}) none is the "
            "default.",
            hint="set tokenizer.chat_template to the one to use, and save the tokenizer so",
        ) from error


def _encode_chat(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]

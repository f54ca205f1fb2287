"""Sample anchors: what the base itself asks and answers, so that no data are needed for what it must not forget.

Half of them are conversations: a chat model that is given the beginning of a user's turn writes the turn itself
(Magpie, arXiv 2406.08464), and then answers it. The other half are plain text, begun and continued by the model. Both
are drawn from the base's own distribution, at temperature 1 and uncut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from ..data import DAY_OF_PAIRS, Anchor, encode_prompt, end_of_turn_id, user_turn_start
from ..errors import ConfigError, DataError
from ..model import QAdapterForCausalLM
from ..model.plain_decoding import without_recommended_decoding

logger = logging.getLogger(__name__)

_BATCH = 16
_BASE = {"strength": 0.0, "alpha_0": 1.0, "alpha_tilde": 1.0}
"""The base itself, whatever α₀/α̃ is."""
_TURN_TOKENS, _OPENING_TOKENS = 64, 16
# Of the sampled user turns that do not end within their limit, so many times as many as wanted are thrown away at most.
_TRIES = 8


@torch.inference_mode()
def sample_anchors(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    max_new_tokens: int = 64,
    max_length: int | None = None,
    seed: int = 0,
    answered_by: Mapping[str, float] = _BASE,
    on_batch: Callable[[int], None] | None = None,
) -> list[Anchor]:
    """Sample prompts from the base policy, and answers to them.

    Args:
        model: its base is sampled; put in eval mode.
        tokenizer: its tokenizer. Without a chat template, and with one that writes nothing before a user's turn, all
            anchors are plain text.
        count: how many.
        max_new_tokens: most tokens of an answer.
        max_length: most tokens of a prompt and the beginning of its answer; longer prompts are sampled again.
        seed: of sampling; the global generator is set by it.
        answered_by: the policy that answers: strength, alpha_0, alpha_tilde; default the base.
        on_batch: called with the number of anchors so far.

    A model that hardly ever ends a user's turn that it began itself gets plain texts instead, with a warning.

    Raises:
        ConfigError: max_length, or the positions of the base, leave no room for an answer.
    """
    model.eval()
    torch.manual_seed(seed)
    positions = model.max_positions
    start = _user_turn_start(tokenizer)
    chats = bool(start) and (positions is None or len(start) + _TURN_TOKENS <= positions)
    conversations = (count + 1) // 2 if chats else 0
    anchors: list[Anchor] = []
    tried = 0
    limits = [None if max_length is None else max_length - 1, None if positions is None else positions - max_new_tokens]
    room = min((limit for limit in limits if limit is not None), default=None)
    opening = len(_opening(tokenizer)) + _OPENING_TOKENS
    while len(anchors) < count:
        if len(anchors) < conversations and tried > _TRIES * (conversations + _BATCH):
            logger.warning(
                "of %d user turns that the model began, %d came to an end within %d tokens and fit into max_length=%s: "
                "the other anchors are plain texts.",
                tried, len(anchors), _TURN_TOKENS, max_length,
            )  # fmt: skip
            conversations = len(anchors)
        chat = len(anchors) < conversations
        wanted = (conversations if chat else count) - len(anchors)
        # Before the first user turn, where plain texts are to follow: it takes long to come to them.
        if count > conversations and room is not None and opening > room:
            if positions is not None and opening + max_new_tokens > positions:
                raise ConfigError(
                    f"answers of up to {max_new_tokens} tokens leave no room in the {positions} positions of the base "
                    f"for the beginning of a plain text, which has {opening} tokens.",
                    hint="lower max_new_tokens of an export, or train without anchors (anchors: 0)",
                )
            raise ConfigError(
                f"the beginning of a plain text has {opening} tokens and max_length is {max_length}: no room for an "
                "answer.",
                hint="raise max_length, or train without anchors (anchors: 0)",
            )
        prompts = _user_turns(model, tokenizer) if chat else _openings(model, tokenizer)
        prompts = [prompt for prompt in prompts if room is None or len(prompt) <= room]
        tried += _BATCH
        end = end_of_turn_id(tokenizer) if chat else tokenizer.eos_token_id
        anchors += _answered(model, prompts[:wanted], end, max_new_tokens, answered_by)
        if on_batch is not None:
            on_batch(len(anchors))
    return anchors


def _user_turn_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What comes before a user's turn; nothing where there is none, or where the template wants more than that turn."""
    if not tokenizer.chat_template:
        return []
    try:
        return user_turn_start(tokenizer)
    except DataError as error:
        logger.warning("all anchors are plain texts: %s", str(error).partition("\n")[0])
        return []


def _user_turns(model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Prompts whose only user turn the model wrote; those that did not end are left out."""
    start, end = user_turn_start(tokenizer), end_of_turn_id(tokenizer)
    turns = []
    for ids in _sample(model, [start] * _BATCH, end, _TURN_TOKENS):
        content = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if ids[-1] == end and content:
            # On another day a resumed run must see the same prompts.
            turns.append(encode_prompt([{"role": "user", "content": content}], tokenizer, day=DAY_OF_PAIRS))
    return turns


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a plain text begins with: a BOS, or a line break."""
    return encode_prompt("", tokenizer) or encode_prompt("\n", tokenizer)


def _openings(model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The first tokens of plain texts."""
    start = _opening(tokenizer)
    return [start + ids for ids in _sample(model, [start] * _BATCH, None, _OPENING_TOKENS)]


def _answered(
    model: QAdapterForCausalLM, prompts: list[list[int]], end: int | None, most: int, policy: Mapping[str, float]
) -> list[Anchor]:
    answers = _sample(model, [prompt for prompt in prompts for _ in range(2)], end, most, policy) if prompts else []
    return [
        Anchor(prompt, (one, other), (one[-1] == end, other[-1] == end))
        for prompt, one, other in zip(prompts, answers[::2], answers[1::2], strict=True)
    ]


def _sample(
    model: QAdapterForCausalLM,
    prompts: Sequence[list[int]],
    end: int | None,
    most: int,
    policy: Mapping[str, float] = _BASE,
) -> list[list[int]]:
    """One sample of a policy for each prompt, up to and with its first `end`."""
    longest = max(map(len, prompts))
    pad = 0  # never seen: the attention mask is 0 there
    rows = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with without_recommended_decoding(model):
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            **policy,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=most,
            eos_token_id=end,
            pad_token_id=pad,
        )
    sampled = []
    for row in output[:, longest:].tolist():
        sampled.append(row[: row.index(end) + 1] if end in row else row)
    return sampled

"""What the base answers by itself, as material for Replay; kept, so that no run repeats it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import NoRoomError, encode_prompt
from ..data.pairs import BadRow
from ..data.reading import read_rows
from ..errors import DataError
from ..generate import answer_prompts, chat_input
from ..train.memory import release_memory
from .content import content_of_base
from .method import Hyperparameter, Run
from .policy import base_policy
from .shared_file import digest_of, made_once

logger = logging.getLogger(__name__)

REPLAY_HYPERPARAMETERS = {
    "replay_prompts": Hyperparameter(
        'JSONL file of {"prompt": text} that the base answers; default: the prompts of the training pairs', kind=str
    ),
    "replay_temperature": Hyperparameter("temperature of the base's answers; 0 is greedy", 0.0),
    "replay_max_new_tokens": Hyperparameter("most tokens of an answer of the base", 128, int, least=1),
}

Prompt = str | list[dict[str, str]]


class ReplayAnswer(NamedTuple):
    """One answer of the base as tokens."""

    prompt_ids: list[int]
    response_ids: list[int]
    """Up to and with the end of the turn, or cut at the length limits."""


def replay_answers(run: Run, count: int) -> tuple[list[ReplayAnswer], float]:
    """`count` answers of the base; prompts are taken in turn, again from the first where they are too few.

    They are written to `shared_dir` under the hash of what determines them, and read from there the next time.

    Returns:
        The answers, and the seconds that generating them took when it was done.

    Raises:
        DataError: a file of prompts that cannot be used, or a prompt longer than max_length.
    """
    own, common = run.hyperparameters, run.common
    prompts = _prompts(run)
    asked = [prompts[index % len(prompts)] for index in range(count)]
    inputs = {
        "model": content_of_base(common),
        "prompts": list(asked),
        "decoding": [own["replay_temperature"], own["replay_max_new_tokens"], common.max_length],
        "seed": run.seed if own["replay_temperature"] > 0 else None,
    }

    def make(path: Path) -> None:
        path.write_text(json.dumps(_generate(run, asked)), encoding="utf-8")
        # The model lies in a cycle, and the training loads another one.
        release_memory()

    path = made_once(run.shared_dir / f"replay-{digest_of(inputs)}.json", make)
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept.get("cut"):  # files of before it was counted lack it
        logger.warning("%d of %d answers of the base had not ended at the length limit: learned as far as they go.",
                       kept["cut"], count)  # fmt: skip
    return [ReplayAnswer(*answer) for answer in kept["answers"]], kept["seconds"]


def _prompts(run: Run) -> Sequence[Prompt]:
    path = run.hyperparameters["replay_prompts"]
    if path is None:
        return run.pairs["prompt"]
    # Documents are continued as they are; other prompts are put as a user's message.
    return [text if kind == "document" else chat_input(text, run.tokenizer) for text, kind in read_replay_prompts(path)]


def read_replay_prompts(path: str) -> list[tuple[str, str]]:
    """(prompt, kind) of every row; the kind is empty where the row has none.

    Raises:
        DataError: the file cannot be read, holds nothing, or a row has no prompt.
    """
    prompts = []
    for location, row in read_rows(path):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        text = row.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{location}: missing or empty field 'prompt'", hint='one {"prompt": "..."} per line')
        prompts.append((text, str(row.get("kind", ""))))
    if not prompts:
        raise DataError(f"{path} holds no prompt.")
    return prompts


def _generate(run: Run, prompts: Sequence[Prompt]) -> dict[str, Any]:
    own, limit = run.hyperparameters, run.common.max_length
    encoded = [encode_prompt(prompt, run.tokenizer) for prompt in prompts]
    if (longest := max(map(len, encoded))) >= limit:
        raise NoRoomError(f"a prompt for Replay has {longest} tokens and max_length is {limit}: no room to answer")
    model = base_policy(run.common)
    if torch.cuda.is_available() and not run.common.use_cpu:
        model.to("cuda")
    started = time.monotonic()
    torch.manual_seed(run.seed)
    sampled = own["replay_temperature"] > 0
    # Greedy answers to equal prompts are equal: the pairs of a DSP record share theirs.
    names = [index if sampled else json.dumps(prompt) for index, prompt in enumerate(prompts)]
    different = dict(zip(names, prompts, strict=True))
    answered = answer_prompts(
        model, run.tokenizer, list(different.values()), max_new_tokens=own["replay_max_new_tokens"], strength=0.0,
        **({"do_sample": True, "temperature": own["replay_temperature"]} if sampled else {}),
    )  # fmt: skip
    by_name = dict(zip(different, answered, strict=True))
    given = [by_name[name] for name in names]
    answers = [
        (ids, answer.token_ids[: limit - len(ids)]) for ids, answer in zip(encoded, given, strict=True)
    ]  # fmt: skip
    cut = sum(not one.finished or len(ids) < len(one.token_ids) for one, (_, ids) in zip(given, answers, strict=True))
    return {"seconds": time.monotonic() - started, "answers": answers, "cut": cut}

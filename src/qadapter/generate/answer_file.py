"""Answers to many prompts in a file that grows batch by batch, so that an interrupted run can go on.

One JSON line per prompt and strength:

    {"index": 0, "id": "q1", "strength": 0.5, "prompt": ..., "answer": "...", "finished": true, "tokens": 12,
     "settings": {...}}

While the run goes on the lines come in the order of the batches; when it is complete, in the order of the prompts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..data.whole_file import write_whole
from ..errors import DataError
from ..model import QAdapterForCausalLM
from .answers import answer_prompts, encode_prompts
from .prompts_file import Prompt, PromptRow

logger = logging.getLogger(__name__)

_BEGIN = b'{"index": '  # of each line
_ANOTHER = "name another --out, or remove the file"


def answer_file(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[PromptRow],
    inputs: Sequence[Prompt],
    out: Path,
    *,
    strengths: Sequence[float],
    settings: Mapping[str, Any],
    batch_size: int,
    max_new_tokens: int,
    seed: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> int:
    """Answer what `out` does not hold yet.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer.
        prompts: the rows of the file of prompts.
        inputs: of each prompt, what `answer_prompts` takes.
        out: the file; made if missing. A half-written last line is removed, complete lines are kept, also those at
            other strengths. What is there and no file, such as /dev/stdout, gets the lines as they come.
        strengths: of the answers; each prompt is answered at each.
        settings: what else the answers depend on, as JSON; written to each line.
        batch_size: prompts per batch.
        max_new_tokens: most tokens of an answer.
        seed: of sampling. Each batch begins from it, its strength and its prompts' numbers, so that a run that goes on
            draws what it would have drawn, and nothing twice. None: from the random state as it is.
        on_batch: called with the number of answers that have come, and of those that were missing.
        **generate_kwargs: for `answer_prompts`.

    Returns:
        The number of answers at these strengths that were cut at `max_new_tokens`, in an earlier run or now.

    Raises:
        DataError: a prompt that `encode_prompts` refuses; or `out` holds answers to other prompts, under other ids or
            with other settings, or something else: it is left as it is.
    """
    wanted = {(row.number, strength) for row in prompts for strength in strengths}
    # All of them now: what is wrong with a long one would else show when the shorter ones are answered.
    encoded = encode_prompts(model, tokenizer, inputs, max_new_tokens=max_new_tokens)
    is_file = out.is_file() or not out.exists()
    done = _read_done(out, prompts, settings) if is_file else {}
    missing, before = len(wanted - done.keys()), len(done)
    by_length = sorted(range(len(prompts)), key=lambda number: len(encoded[number]))
    with out.open("a", encoding="utf-8") as file:
        for strength in strengths:
            left = [number for number in by_length if (prompts[number].number, strength) not in done]
            for start in range(0, len(left), batch_size):
                batch = left[start : start + batch_size]
                if seed is not None:
                    _seed_batch(seed, strength, [prompts[number].number for number in batch])
                answers = answer_prompts(
                    model,
                    tokenizer,
                    [inputs[number] for number in batch],
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                    strength=strength,
                    **generate_kwargs,
                )
                for number, answer in zip(batch, answers, strict=True):
                    row = prompts[number]
                    line = {
                        "index": row.number,
                        **({} if row.id is None else {"id": row.id}),
                        "strength": strength,
                        "prompt": row.prompt,
                        "answer": answer.text,
                        "finished": answer.finished,
                        "tokens": len(answer.token_ids),
                        "settings": dict(settings),
                    }
                    done[row.number, strength] = line
                    file.write(_as_line(line))
                file.flush()
                if on_batch is not None:
                    on_batch(len(done) - before, missing)
    if is_file:
        _write_in_order(out, [done[key] for key in sorted(done)])
    return sum(not done[key]["finished"] for key in wanted)


def _seed_batch(seed: int, strength: float, numbers: Sequence[int]) -> None:
    digest = hashlib.sha256(json.dumps([seed, strength, *numbers]).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _read_done(
    out: Path, prompts: Sequence[PromptRow], settings: Mapping[str, Any]
) -> dict[tuple[int, float], dict[str, Any]]:
    """The lines of an earlier run, by prompt and strength."""
    if not out.exists():
        return {}
    text = out.read_bytes()
    complete = text[: text.rfind(b"\n") + 1]
    half = text[len(complete) :]
    if half[: len(_BEGIN)] != _BEGIN[: len(half)]:
        raise DataError(f"{out} ends in a line that is no answer of this command.", hint=_ANOTHER)
    done = {}
    for number, raw in enumerate(complete.splitlines(), start=1):
        try:
            line = json.loads(raw)
            index, strength, prompt, made_with, *_ = (
                line[name] for name in ("index", "strength", "prompt", "settings", "answer", "finished")
            )
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{out}, line {number}: not an answer of this command ({error!r})."
            raise DataError(problem, hint=_ANOTHER) from error
        if index not in range(len(prompts)) or prompt != prompts[index].prompt or made_with != settings:
            raise DataError(
                f"{out}, line {number}: an answer to another prompt, or with other settings than now.",
                hint=_ANOTHER,
            )
        if line.get("id") != (wanted := _as_written(prompts[index].id)):
            raise DataError(
                f"{out}, line {number}: an answer to this prompt with the id {json.dumps(line.get('id'))}, and now its "
                f"id is {json.dumps(wanted)}.",
                hint=_ANOTHER,
            )
        done[index, strength] = line
    # Only now: a file of something else has been refused as it was.
    if half:
        logger.warning("%s ends in a half-written line: it is removed, and its prompt answered again.", out)
        with out.open("r+b") as file:
            file.truncate(len(complete))
    return done


def _as_written(value: Any) -> Any:
    """A value as it is read again: JSON knows no tuples, and has texts alone for keys."""
    return json.loads(json.dumps(value))


def _write_in_order(out: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file as a whole: it is never seen half-written."""
    write_whole(out, "".join(map(_as_line, lines)))


def _as_line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"

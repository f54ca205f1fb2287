"""The files of an evaluation, read and checked before anything slow starts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data import encode_prompt, load_preference_dataset
from ..data.pairs import BadRow, RowProblem, checked_text
from ..data.reading import read_rows
from ..errors import ConfigError, DataError
from ..generate import Prompt, chat_input, read_prompts
from ..model.positions import refuse_beyond
from ..train import usable_pairs
from ..train.token_rows import refuse_pairs_beyond_positions
from .arguments import EvaluationArguments
from .perplexity import longest_window
from .retention import ANSWER_TOKENS, as_input, load_neutral_prompts
from .tasks import LoadedTask, load_tasks

logger = logging.getLogger(__name__)


class EvaluationInputs(NamedTuple):
    """What the arguments name, in memory."""

    pairs: Dataset | None
    prompts: list[Prompt]
    """Different prompts to answer afresh: messages, or text that is continued as it stands."""
    neutral: list[dict[str, str]]
    """{kind, prompt}."""
    documents: list[str]
    """Each with at least one character that is no white space."""
    tasks: list[LoadedTask]


def read_inputs(
    args: EvaluationArguments, tokenizer: PreTrainedTokenizerBase, *, positions: int | None = None
) -> EvaluationInputs:
    """Read them.

    Args:
        args: the arguments.
        tokenizer: the base model's; a pair that it shows to be a bad row is no source of a prompt either.
        positions: as in `check_lengths`, which is called last; None where the base has no limit, or is not known yet.

    Raises:
        DataError: a file that is missing or damaged, or a row of it; it names the row.
        ConfigError: tasks that cannot be run (see `load_tasks`), or that need a chat template where there is none.
        MissingExtraError: tasks, without lm-eval.
    """
    if args.tasks and args.task_chat_template and not tokenizer.chat_template:
        raise ConfigError(
            "task_chat_template: the base has no chat template.", hint="leave it out: questions are put as plain text"
        )
    pairs = None
    if args.preference_file:
        rows = load_preference_dataset(args.preference_file, split="test", style=args.style, on_bad_row=args.on_bad_row)
        pairs = usable_pairs(rows, tokenizer, max_length=args.max_length, on_bad_row=args.on_bad_row)
        pairs = pairs.select(range(min(len(pairs), args.max_pairs or len(pairs))))
    if args.prompts_file:
        prompts = [chat_input(row.prompt, tokenizer) for row in read_prompts(args.prompts_file)]
    else:
        # As they were trained on: a string is continued as it stands.
        prompts = list(pairs["prompt"]) if pairs is not None else []
    different = _different(prompts)
    if args.prompts_file and len(different) < len(prompts):
        logger.warning(
            "%s: %d of %d prompts repeat one before them; each is answered once.",
            args.prompts_file, len(prompts) - len(different), len(prompts),
        )  # fmt: skip
    inputs = EvaluationInputs(
        pairs=pairs,
        prompts=different[: args.max_prompts],
        neutral=read_neutral_prompts(args.neutral_file),
        documents=_documents(args.text_file)[: args.max_documents] if args.text_file else [],
        tasks=load_tasks(args.tasks, num_fewshot=args.num_fewshot) if args.tasks else [],
    )
    check_lengths(inputs, args, tokenizer, positions)
    return inputs


def check_lengths(
    inputs: EvaluationInputs, args: EvaluationArguments, tokenizer: PreTrainedTokenizerBase, positions: int | None
) -> None:
    """Stop where the base has fewer positions than a neutral prompt, a pair or a window of plain text has tokens.

    Args:
        inputs: what was read.
        args: the arguments.
        tokenizer: the base model's.
        positions: tokens that the base can number; None where it has no limit.

    Raises:
        DataError: with the length of the longest.
    """
    if not positions:
        return
    longest = max((len(encode_prompt(as_input(row, tokenizer), tokenizer)) for row in inputs.neutral), default=0)
    if longest + ANSWER_TOKENS > positions:
        raise DataError(
            f"{args.neutral_file or 'the neutral prompts'}: the longest has {longest} tokens, and an answer to it "
            f"takes up to {ANSWER_TOKENS}: more than the {positions} positions of the base.",
            hint="give shorter prompts with neutral_file",
        )
    if args.max_length <= positions:
        return
    if inputs.pairs is not None:
        refuse_pairs_beyond_positions(inputs.pairs, tokenizer, max_length=args.max_length, positions=positions)
    refuse_beyond(positions, longest_window(tokenizer, inputs.documents, args.max_length), "windows of plain text")


def read_neutral_prompts(path: str | None) -> list[dict[str, str]]:
    """The {kind, prompt} of a file; the project's own where there is none.

    Raises:
        DataError: a file that is missing or damaged, or a row of it; it names the row.
    """
    return _read(path, _neutral) if path else load_neutral_prompts()


def _read(path: str, parse: Callable[[str, dict[str, Any]], Any]) -> list[Any]:
    rows = []
    for location, row in read_rows(path):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        rows.append(parse(location, row))
    return rows


def _neutral(location: str, row: dict[str, Any]) -> dict[str, str]:
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DataError(f"{location}: missing or empty field 'prompt'", hint='one {"prompt": "..."} per line')
    kind = str(row.get("kind", "prompt"))
    return {"prompt": _readable(location, "prompt", row["prompt"]), "kind": _readable(location, "kind", kind)}


def _documents(path: str) -> list[str]:
    """The documents of a text file; the rows of white space that some corpora have between theirs are none."""
    if Path(path).suffix.lower() == ".txt":
        try:
            texts = [Path(path).read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    else:
        texts = _read(path, _text)
    documents = [text for text in texts if text.strip()]
    if not documents:
        raise DataError(f"{path} holds no text.")
    return documents


def _text(location: str, row: dict[str, Any]) -> str:
    if not isinstance(row.get("text"), str):
        raise DataError(f"{location}: missing field 'text'", hint='one {"text": "..."} per line, or a .txt file')
    return _readable(location, "text", row["text"])


def _readable(location: str, field: str, text: str) -> str:
    try:
        return checked_text(text, field)
    except RowProblem as error:
        raise DataError(f"{location}: {error}") from None


def _different(prompts: list[Prompt]) -> list[Prompt]:
    return list({json.dumps(prompt, sort_keys=True): prompt for prompt in prompts}.values())

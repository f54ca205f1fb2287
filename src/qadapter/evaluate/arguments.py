"""What to measure of a policy: flat fields, for Python, YAML and the command line alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class EvaluationArguments:
    """What to measure, and on what. Raises `ConfigError`, naming the field."""

    preference_file: str | None = _meaning(
        "held-out pairs, in any format that `train` reads; of a hub data set its split test"
    )
    max_pairs: int | None = _meaning("read only the first so many usable pairs of the preference file")
    style: str | None = _meaning("for DSP raw records: the style whose response is chosen")
    prompts_file: str | None = _meaning(
        "prompts that are answered afresh, {prompt}, {messages} or {instruction} per row (default: those of the "
        "preference file)"
    )
    max_prompts: int | None = _meaning("answer only the first so many different prompts")
    max_new_tokens: int = _meaning("most tokens of a fresh answer", 256)
    neutral_file: str | None = _meaning(
        "prompts for the distance to the base, {prompt, kind} per row (default: 60 prompts of the project)"
    )
    text_file: str | None = _meaning("plain text for perplexity: .txt is one document, of .jsonl each {text} is one")
    max_documents: int | None = _meaning("read only the first so many documents of the text file")
    tasks: list[str] = field(
        default_factory=list, metadata={"help": "lm-eval tasks by name, or .jsonl files in the fields of a known task"}
    )
    task_limit: int | None = _meaning("ask only the first so many questions of each task")
    num_fewshot: int | None = _meaning("solved examples before each question (default: as each task says)")
    task_chat_template: bool = _meaning("put the questions of tasks to the model as a user's message", False)
    max_length: int = _meaning("most tokens of a pair, and of a window of plain text", 1024)
    batch_size: int = _meaning("sequences at a time; changes no result beyond rounding", 16)
    on_bad_row: str = _meaning("what to do about bad rows of the preference file: stop or skip", "stop")
    seed: int = _meaning("of tasks that draw examples, and of the bootstrap", 0)

    def __post_init__(self) -> None:
        for name, lowest in (
            *(("max_pairs", 1), ("max_prompts", 1), ("max_new_tokens", 1), ("max_documents", 1), ("task_limit", 1)),
            *(("num_fewshot", 0), ("max_length", 2), ("batch_size", 1)),
        ):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, got {value}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be a whole number from 0 to {2**32 - 1}, got {self.seed}")
        if self.on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row must be stop or skip, got {self.on_bad_row!r}")

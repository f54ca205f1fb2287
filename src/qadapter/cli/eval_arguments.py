"""The fields of `qadapter eval` that are not about what to measure, and the help of all of them."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluate import EvaluationArguments
from ..evaluate.judges import JudgeArguments
from ..model.loading import DTYPES
from .config import flag_of


def _meaning(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class EvalRunArguments:
    """At which strengths, on which base, and where the result goes. Raises `ConfigError`, naming the flag."""

    strength: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={"help": "dials of the customized policy, above 0 (default: 1); the base is always measured"},
    )
    output: str | None = _meaning("write the result to this JSON file, all but the benchmarks before they start")
    report: str | None = _meaning("write an HTML page about it to this file")
    json: bool = _meaning("print the JSON instead of the table", False)
    base: str | None = _meaning("where the base model lies (default: as trained; checked)")
    dtype: str = _meaning(
        "of the weights: bfloat16, float16, float32, or auto, which is the checkpoint's (default: auto; float32 on a"
        " CPU without bfloat16 instructions)",
        "",
    )
    load_in: str | None = _meaning("store the base's linear layers in 8bit or 4bit (extra: quantized)")
    trust_remote_code: bool = _meaning("run code that comes with the base model", False)

    def __post_init__(self) -> None:
        for value in self.strength:
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"--strength must be above 0, got {value:g}",
                    hint="strength 0 is the base, which is always measured",
                )
        if len(set(self.strength)) < len(self.strength):
            raise ConfigError(f"--strength names a dial twice: {' '.join(f'{value:g}' for value in self.strength)}")
        for flag, path in (("--output", self.output), ("--report", self.report)):
            if path and not Path(path).absolute().parent.is_dir():
                raise ConfigError(f"{flag} {path}: the folder does not exist.")
            if path and Path(path).is_dir():
                raise ConfigError(f"{flag} {path}: that is a folder; name a file in it.")
        if self.output and self.report and Path(self.output).absolute() == Path(self.report).absolute():
            raise ConfigError(f"--output and --report name one file, {self.output}: the JSON and the page need two.")
        if self.dtype and self.dtype not in DTYPES:
            raise ConfigError(f"--dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")


TYPES = (EvalRunArguments, EvaluationArguments, JudgeArguments)
_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("what was gained: pairs", ("preference_file", "max_pairs", "style", "on_bad_row")),
    ("what was gained: fresh answers", ("prompts_file", "max_prompts", "max_new_tokens")),
    ("judges of fresh answers", tuple(entry.name for entry in dataclasses.fields(JudgeArguments))),
    ("what was kept", ("neutral_file", "text_file", "max_documents", "tasks", "task_limit", "num_fewshot",
                       "task_chat_template")),
    ("policies", ("strength", "base", "dtype", "load_in", "trust_remote_code")),
    ("result", ("output", "report", "json")),
    ("how", ("batch_size", "max_length", "seed")),
)  # fmt: skip


def help_text() -> str:
    """The help of `qadapter eval`."""
    fields = {entry.name: entry for one in TYPES for entry in dataclasses.fields(one)}
    lines = [
        "usage: qadapter eval DIR [--preference-file F] [--checker MODULE:FUNCTION] [--tasks NAMES|FILES] ...",
        "",
        "What an adapter gained and what it kept: the base and the customized policy in one run, with the difference",
        "of every figure and its 95 % interval. DIR is the folder that `qadapter train` wrote, or its hub id.",
    ]
    for title, names in _GROUPS:
        lines += ["", f"{title}:"]
        for name in names:
            meaning, default = str(fields[name].metadata["help"]), fields[name].default
            if default not in (None, False, "", dataclasses.MISSING):
                meaning += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
            lines.append(f"  {flag_of(name)}")
            lines += textwrap.wrap(meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)

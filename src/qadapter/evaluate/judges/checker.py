"""A program as the judge: a function of the answer, named as `module:function`."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import ConfigError
from ...generate import Answer
from .judge import Verdict


class Checker:
    """Judges by a function.

    An answer that did not end within its token limit counts as not fulfilled, and the function does not see it: what
    it would have become is not known. A function that takes whether the answer ended is asked all the same. Where the
    function raises, the verdict failed.

    Args:
        function: of the answer's text, of (the prompt's messages, the answer's text), or of these two and whether the
            answer ended; parameters with a default do not count. It returns whether the preference is fulfilled, or a
            number from 0 (not at all) to 1.
        label: names the function in the judge's name; default its own name.

    Raises:
        ConfigError: the function takes none, or more than three arguments.
    """

    kind = "checker"
    needs_reference = False
    cost: dict[str, Any] | None = None

    def __init__(self, function: Callable[..., Any], label: str | None = None) -> None:
        self.function = function
        self.label = label or str(getattr(function, "__name__", function))
        self.name = f"checker:{self.label}"
        self._arguments = _count_arguments(function, self.label)

    def check(self, *, may_be_cached: bool = False) -> None:
        """Nothing: what could be wrong showed when it was made."""

    def judge(
        self,
        prompts: Sequence[list[dict[str, str]]],
        answers: Sequence[Answer],
        references: Sequence[Answer] | None = None,
    ) -> list[Verdict]:
        """Check every answer.

        Raises:
            ConfigError: the function returned something else than a truth value or a number from 0 to 1.
        """
        return [self._check(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _check(self, prompt: list[dict[str, str]], answer: Answer) -> Verdict:
        if not answer.finished and self._arguments < 3:
            return Verdict(0.0, "did not end within its token limit")
        try:
            given = (
                (answer.text,) if self._arguments == 1 else (prompt, answer.text, answer.finished)[: self._arguments]
            )
            found = self.function(*given)
        except Exception as error:  # a program of the user's: it may raise whatever it likes
            return Verdict(None, f"{type(error).__name__}: {error}")
        # numpy's truth value is no bool, and says so by its name only.
        if type(found).__name__ not in ("bool", "bool_") and not isinstance(found, numbers.Real):
            raise ConfigError(
                f"the checker {self.label} returned {found!r:.80} of type {type(found).__name__}.",
                hint="return True or False, or a number from 0 to 1",
            )
        score = float(found)
        if math.isnan(score) or not 0 <= score <= 1:
            raise ConfigError(f"the checker {self.label} returned {score}.", hint="a score is a number from 0 to 1")
        return Verdict(score)


def _count_arguments(function: Callable[..., Any], label: str) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the checker {label} has no signature that can be read: {error}") from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) not in (1, 2, 3) or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise ConfigError(
            f"the checker {label} takes ({', '.join(str(p) for p in parameters)}).",
            hint="a checker is a function of (answer), (prompt, answer) or (prompt, answer, finished)",
        )
    return len(needed)

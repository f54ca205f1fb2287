"""What the engine is asked for, and what it says back while it works."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...core import Mixture

FinishReason = Literal["stop", "length"]
FailureReason = Literal["deadline", "shutdown", "memory", "error"]


class Policy(NamedTuple):
    """Which mixed policy writes the answer."""

    adapter: str
    """PEFT's name of the adapter; not looked at where the mixture needs none."""
    mixture: Mixture
    """Weights (a, b) of the two hidden states, numbers. The row of a policy whose weight is 0 is not computed."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn from the policy, and when an answer ends."""

    max_tokens: int
    """Most tokens of an answer, at least 1."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Draw from the fewest most likely tokens that have this share of the probability; at least one."""
    seed: int | None = None
    """Of the choice of tokens; None draws differently each time."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts, none of them empty."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens are reported beside each chosen one; None reports nothing."""


class TokenLogprob(NamedTuple):
    """A token of the answer with its log-probability under the mixed policy, before temperature and top_p."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, in descending order."""
    start: int = 0
    """Length of the answer's text before this token, characters."""


class Delta(NamedTuple):
    """What one choice has grown by."""

    choice: int
    text: str
    """Whole characters, none of which can still become part of a stop string. May be empty."""
    tokens: tuple[TokenLogprob, ...] = ()
    """The tokens that `text` came from, where log-probabilities were asked for."""
    finish: FinishReason | None = None
    """Set in a choice's last delta."""
    completion_tokens: int = 0
    """Tokens of the choice so far, with the one that ended it."""


class Failed(NamedTuple):
    """The request ends here, without an answer or in the middle of it."""

    reason: FailureReason


Event = Delta | Failed


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt and the choices wanted for it."""

    prompt_ids: tuple[int, ...]
    policy: Policy
    sampling: Sampling
    emit: Callable[[Event], None]
    """Called in the engine's thread: quick, and without exceptions. Nothing comes after a `Failed`, nor after the last
    choice's last `Delta`, nor once the request was cancelled."""
    choices: int = 1
    continues: bool = False
    """Whether the answer's text goes on from the prompt's, and is no message of its own."""
    deadline: float = math.inf
    """On the clock of `time.monotonic`."""

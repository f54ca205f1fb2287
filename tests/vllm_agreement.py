"""What vLLM answered beside what our own forward says of the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qadapter import QAdapterForCausalLM

Requests = Sequence[dict[str, Any]]
Answers = Sequence[dict[str, Any]]


def served(answers: Answers) -> Tensor:
    """vLLM's log-probs of all listed tokens, flat."""
    return torch.tensor(
        [value for answer in answers for place in answer["logprobs"] for value in place.values()], dtype=torch.float64
    )


def of_the_text(answers: Answers) -> Tensor:
    """Which of the listed tokens are those of the answers' texts, as a mask."""
    marks: list[bool] = []
    for answer in answers:
        # Places of the prompt come first, where a request asked for them.
        texts = [None] * (len(answer["logprobs"]) - len(answer["tokens"])) + answer["tokens"]
        for place, token in zip(answer["logprobs"], texts, strict=True):
            marks += [int(listed) == token for listed in place]
    return torch.tensor(marks)


@torch.no_grad()
def expected(model: Any, requests: Requests, answers: Answers) -> tuple[Tensor, float]:
    """Log-probs of our own model, or of a plain one for requests without dials, at the same tokens.

    Returns:
        Flat, in the order of `served`; and the share of the answers' tokens that are the most likely ones.
    """
    logps, agreeing = [], []
    for request, answer in zip(requests, answers, strict=True):
        ids = torch.tensor([request["prompt"] + answer["tokens"]])
        logp = model(ids, **(request["dials"] or {})).logits[0].double().log_softmax(-1)
        first = ids.shape[1] - 1 - len(answer["logprobs"])
        for place, likely in enumerate(answer["logprobs"], start=first):
            logps.append(logp[place, [int(token) for token in likely]])
        agreeing += (logp[len(request["prompt"]) - 1 : -1].argmax(-1) == ids[0, len(request["prompt"]) :]).tolist()
    return torch.cat(logps), sum(agreeing) / len(agreeing)


def with_strength(requests: Requests, strength: float) -> list[dict[str, Any]]:
    """The same requests at another strength."""
    return [request | {"dials": {"strength": strength}} for request in requests]


def served_strength(model: QAdapterForCausalLM, requests: Requests, answers: Answers, near: float) -> float:
    """The strength at which the answers were given, read off their log-probs: least squares around `near`.

    Rounding scatters log-probs by more than a slightly wrong strength moves them, but in no common direction.
    """
    here, further = (expected(model, with_strength(requests, value), answers)[0] for value in (near, near + 0.1))
    slope = (further - here) / 0.1
    return near + float(slope @ (served(answers) - here) / (slope @ slope))

"""Decoding beside the base: who is timed, and what is made of the times. The clock is a fake."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import PAPER, make_model

from qadapter.compare import decode_time as module


def test_the_policies_take_turns_and_the_first_turn_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    # Base and policy in turn; the second counted turn meets a machine that is three times slower.
    seconds = iter([50.0, 90.0, 1.0, 2.0, 3.0, 6.0, 1.0, 2.5])

    def answer(model: object, tokenizer: object, texts: list[str], **kwargs: Any) -> None:
        calls.append((texts, kwargs))
        clock[0] += next(seconds)

    monkeypatch.setattr(module, "answer_prompts", answer)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "_NEW_TOKENS", 4)
    model = make_model(constants=PAPER)
    found = module.decode_time(model, object(), ["a", "b"], 0.5)
    assert found == {"seconds_per_token": 2.5 / 8, "base_seconds_per_token": 1 / 8, "vs_base": 2.0}
    assert [kwargs["strength"] for _, kwargs in calls] == [0.0, 0.5] * 4
    assert calls[0][1]["alpha_0"] == PAPER.alpha_tilde, "the base at its own temperature"
    for texts, kwargs in calls:
        assert texts == ["a", "b"]
        assert kwargs["min_new_tokens"] == kwargs["max_new_tokens"] == 4

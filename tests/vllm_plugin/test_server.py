"""vLLM's own OpenAI server on an exported folder: the dial of a request, and requests that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.config", reason="vLLM is not installed here; `make test-vllm` makes its environment")

from vllm_process import posted, serving

PROMPT, NEW_TOKENS = [*range(3, 20)], 6


def test_requests_over_http(exported: Callable[[str], Any], tmp_path: Path) -> None:
    """One server for all of it: it takes longest to start."""
    made = exported("qwen3")
    options = ("--served-model-name", "mine", "--dtype", "float32", "--enforce-eager", "--max-model-len", "128")
    with serving(made.folder, tmp_path / "log", *options) as url:
        answers = {xargs: asked(url, dict(xargs)) for xargs in ((), (("strength", 0),), (("strength", 0.5),))}
        refusals = {
            word: posted(f"{url}/v1/completions", body({name: value}))
            for name, value, word in (("strength", -1, "strength must be"), ("strenght", 0.5, "did you mean"))
        }
    for xargs, (tokens, logprobs) in answers.items():
        assert logprobs == pytest.approx(ours(made.model(), tokens, dict(xargs)), abs=1e-4)
    assert len({str(logprobs) for _, logprobs in answers.values()}) == 3
    for word, (status, answer) in refusals.items():
        assert status == 400
        assert word in answer["error"]["message"]


def body(xargs: dict[str, float]) -> dict[str, Any]:
    return {
        "model": "mine", "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True,
        "logprobs": 1, "return_tokens_as_token_ids": True, "vllm_xargs": xargs,
    }  # fmt: skip


def asked(url: str, xargs: dict[str, float]) -> tuple[list[int], list[float]]:
    """The answer's tokens and their log-probs."""
    status, answer = posted(f"{url}/v1/completions", body(xargs))
    assert status == 200, answer
    told = answer["choices"][0]["logprobs"]
    return [int(token.removeprefix("token_id:")) for token in told["tokens"]], told["token_logprobs"]


@torch.no_grad()
def ours(model: Any, tokens: list[int], dials: dict[str, float]) -> list[float]:
    """Log-probs of the same tokens, which are our likeliest ones."""
    logp = model(torch.tensor([PROMPT + tokens]), **dials).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    assert logp.argmax(-1).tolist() == tokens
    return logp.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()

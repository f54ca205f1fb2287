"""vLLM itself on tiny models, against our own forward: the log-probs of every position, not the likeliest token alone.

Each test is one engine in a process of its own. In one batch the requests have different dials, join and leave, are
prefilled in chunks and share cached prefixes: whatever mixes up rows shows as a wrong log-prob.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.config", reason="vLLM is not installed here; `make test-vllm` makes its environment")

from vllm_agreement import expected, served
from vllm_process import answered

EAGER = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128}
DIALS: list[dict[str, float] | None] = [
    None,
    {"strength": 0.0},
    {"strength": 0.5},
    {"strength": 1.0},
    {"strength": 1.5, "alpha_0": 0.1},
    {"alpha_tilde": 0.6},
]


def tiny_requests(count: int) -> list[dict[str, Any]]:
    """Prompts of odd lengths; every third one repeats the first, with another dial."""
    torch.manual_seed(0)
    prompts = [torch.randint(3, 97, (5 + 7 * number % 40,)).tolist() for number in range(count)]
    for number in range(0, count, 3):
        prompts[number] = [*range(3, 43)]
    return [
        {
            "prompt": prompt,
            "dials": DIALS[number % len(DIALS)],
            "max_tokens": 4 + number % 9,
            "prompt_logprobs": number % 4 == 1,
        }
        for number, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_mixed_batch_has_our_log_probs(family: str, exported: Callable[[str], Any], tmp_path: Path) -> None:
    """24 requests for 6 rows, at most 16 tokens a step: rows move and prompts are cut."""
    made, requests = exported(family), tiny_requests(24)
    options = EAGER | {"max_num_seqs": 6, "max_num_batched_tokens": 16, "enable_chunked_prefill": True}
    answers = answered(made.folder, requests, tmp_path, **options)
    model = made.model()
    logp, agreement = expected(model, requests, answers)
    assert (served(answers) - logp).abs().max() < 1e-4
    assert agreement == 1.0
    assert [len(answer["tokens"]) for answer in answers] == [request["max_tokens"] for request in requests]
    # Judged with the next request's dials the same answers are far off: what is above can fail.
    shifted = [request | {"dials": DIALS[(number + 1) % len(DIALS)]} for number, request in enumerate(requests)]
    assert (served(answers) - expected(model, shifted, answers)[0]).abs().max() > 0.1


def test_compiled(exported: Callable[[str], Any], tmp_path: Path) -> None:
    """vLLM's default: torch.compile of the backbone."""
    made, requests = exported("llama"), tiny_requests(12)
    answers = answered(made.folder, requests, tmp_path, **EAGER | {"enforce_eager": False, "max_num_seqs": 4})
    logp, agreement = expected(made.model(), requests, answers)
    assert (served(answers) - logp).abs().max() < 1e-4
    assert agreement == 1.0

"""vLLM itself, against our own forward: the log-probs of every position, not the most likely tokens alone.

Each test is one engine in a process of its own. In one batch the requests have different dials, join and leave, are
prefilled in chunks and share cached prefixes: whatever mixes up rows shows as a wrong log-prob.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.config", reason="vLLM is not installed here; `make test-vllm` makes its environment")

from vllm_process import answered

from qadapter import QAdapterForCausalLM, QConstants
from qadapter.cli.main import main
from qadapter.data import encode_prompt
from qadapter.model import DEFAULT_MODEL, load_base, load_base_tokenizer
from qadapter.model.loading import default_model_folder

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


@torch.no_grad()
def differences(model: QAdapterForCausalLM, requests: list[dict[str, Any]], answers: list[dict[str, Any]]) -> Any:
    """|log-prob of vLLM − ours| at every listed token, and the share of new tokens that are our most likely ones."""
    found, agreeing, new = [], 0, 0
    for request, answer in zip(requests, answers, strict=True):
        ids = torch.tensor([request["prompt"] + answer["tokens"]])
        logp = model(ids, **(request["dials"] or {})).logits[0].float().log_softmax(-1)
        first = len(request["prompt"]) + len(answer["tokens"]) - 1 - len(answer["logprobs"])
        for place, likely in enumerate(answer["logprobs"], start=first):
            found += [abs(value - float(logp[place, int(token)])) for token, value in likely.items()]
        greedy = logp[len(request["prompt"]) - 1 : -1].argmax(-1).tolist()
        agreeing += sum(mine == theirs for mine, theirs in zip(greedy, answer["tokens"], strict=True))
        new += len(answer["tokens"])
    return torch.tensor(found), agreeing / new


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_mixed_batch_has_our_log_probs(family: str, exported: Callable[[str], Any], tmp_path: Path) -> None:
    """24 requests for 6 rows, at most 16 tokens a step: rows move and prompts are cut."""
    made, requests = exported(family), tiny_requests(24)
    options = EAGER | {"max_num_seqs": 6, "max_num_batched_tokens": 16, "enable_chunked_prefill": True}
    answers = answered(made.folder, requests, tmp_path, **options)
    error, agreement = differences(made.model(), requests, answers)
    assert error.max() < 1e-4
    assert agreement == 1.0
    assert [len(answer["tokens"]) for answer in answers] == [request["max_tokens"] for request in requests]


def test_the_dials_matter(exported: Callable[[str], Any], tmp_path: Path) -> None:
    """The same answers judged with the next request's dial are far off, so that the tests above can fail."""
    made, requests = exported("llama"), tiny_requests(6)
    answers = answered(made.folder, requests, tmp_path, **EAGER)
    model = made.model()
    assert differences(model, requests, answers)[0].max() < 1e-4
    shifted = [request | {"dials": DIALS[(number + 1) % 6]} for number, request in enumerate(requests)]
    assert differences(model, shifted, answers)[0].max() > 0.1


def test_compiled(exported: Callable[[str], Any], tmp_path: Path) -> None:
    """vLLM's default: torch.compile of the backbone."""
    made, requests = exported("llama"), tiny_requests(12)
    answers = answered(made.folder, requests, tmp_path, **EAGER | {"enforce_eager": False, "max_num_seqs": 4})
    error, agreement = differences(made.model(), requests, answers)
    assert error.max() < 1e-4
    assert agreement == 1.0


QUESTIONS = [
    "What is the capital of France?", "Name three fruits.", "Why is the sky blue?", "Tell me a joke.",
    "How do I boil an egg?", "What is 7 times 8?", "Who wrote Hamlet?", "Describe the sea.",
    "Explain gravity to a child.", "Write a haiku about snow.", "How do plants eat?", "What is a prime number?",
    "Give me advice on sleep.", "Translate 'good morning' to Spanish.", "What is Python?",
    "Summarize the story of Cinderella.", "How far is the moon?", "What should I cook tonight?", "Is water wet?",
    "List two uses of copper.",
]  # fmt: skip


@pytest.mark.real_model
@pytest.mark.skipif(
    not (default_model_folder().is_dir() or os.environ.get("QADAPTER_REAL_MODEL")),
    reason="SmolLM2-135M-Instruct is not cached; `make test-all` or `make demo` fetches it (93 MB)",
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_smollm2_answers_20_prompts_alike_at_three_strengths(dtype: str, tmp_path: Path) -> None:
    """60 requests in one batch.

    In bfloat16 both engines round, at other places: what is bounded is the mean, and the plain base model's own
    difference between the two engines is the yardstick (strength 0 is the base).
    """
    tokenizer = load_base_tokenizer(DEFAULT_MODEL)
    model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype=dtype), QConstants("residual", 0.3, 0.3)).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    model.save_pretrained(tmp_path / "adapter", tokenizer=tokenizer)
    assert main(["export", str(tmp_path / "adapter"), "--to", "vllm", "--output", str(tmp_path / "out")]) == 0
    requests = [
        {
            "prompt": encode_prompt([{"role": "user", "content": question}], tokenizer),
            "dials": {"strength": strength},
            "max_tokens": 32,
        }
        for strength in (0.0, 0.5, 1.0)
        for question in QUESTIONS
    ]
    options = {"dtype": dtype, "enforce_eager": True, "max_model_len": 256, "max_num_seqs": 64}
    answers = answered(tmp_path / "out", requests, tmp_path, **options)
    for number, strength in enumerate((0.0, 0.5, 1.0)):
        part = slice(number * len(QUESTIONS), (number + 1) * len(QUESTIONS))
        error, agreement = differences(model, requests[part], answers[part])
        print(f"{dtype} strength {strength}: max {error.max():.2g} mean {error.mean():.2g} agreement {agreement:.1%}")
        if dtype == "float32":
            assert error.max() < 1e-4
            assert agreement == 1.0
        else:
            assert error.mean() < 2e-2
            assert agreement > 0.95

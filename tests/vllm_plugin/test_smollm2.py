"""vLLM on SmolLM2-135M-Instruct: 20 prompts at strengths 0, 0.5 and 1, against our own generation and plain vLLM.

With QADAPTER_VLLM_RESULT=FILE the differences are written there, as in benchmarks/results/vllm-agreement.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("vllm.config", reason="vLLM is not installed here; `make test-vllm` makes its environment")

from vllm_agreement import expected, of_the_text, served, served_strength, with_strength
from vllm_process import answered

from qadapter import QAdapterForCausalLM, QConstants
from qadapter.cli.main import main
from qadapter.data import encode_prompt
from qadapter.model import DEFAULT_MODEL, load_base, load_base_tokenizer
from qadapter.model.loading import base_folder, default_model_folder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from harness.machine import describe
from vllm_throughput import vllm_version

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        not (default_model_folder().is_dir() or os.environ.get("QADAPTER_REAL_MODEL")),
        reason="SmolLM2-135M-Instruct is not cached; `make test-all` or `make demo` fetches it (93 MB)",
    ),
]

QUESTIONS = [
    "What is the capital of France?", "Name three fruits.", "Why is the sky blue?", "Tell me a joke.",
    "How do I boil an egg?", "What is 7 times 8?", "Who wrote Hamlet?", "Describe the sea.",
    "Explain gravity to a child.", "Write a haiku about snow.", "How do plants eat?", "What is a prime number?",
    "Give me advice on sleep.", "Translate 'good morning' to Spanish.", "What is Python?",
    "Summarize the story of Cinderella.", "How far is the moon?", "What should I cook tonight?", "Is water wet?",
    "List two uses of copper.",
]  # fmt: skip
STRENGTHS = (0.0, 0.5, 1.0)
NEW_TOKENS = 32


class Run(NamedTuple):
    """Both engines' answers in one precision."""

    adapter: Path
    requests: dict[float, list[dict[str, Any]]]
    """By strength."""
    answers: dict[float, list[dict[str, Any]]]
    """By strength, of one batch."""
    plain: list[dict[str, Any]]
    """Of vLLM's own Llama with the base's weights."""

    def model(self, dtype: str) -> QAdapterForCausalLM:
        return QAdapterForCausalLM.from_pretrained(self.adapter, dtype=dtype).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    @cache
    def both_engines(dtype: str) -> Run:
        root = tmp_path_factory.mktemp(dtype)
        tokenizer = load_base_tokenizer(DEFAULT_MODEL)
        model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype=dtype), QConstants("residual", 0.3, 0.3))
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.02)
        model.save_pretrained(root / "adapter", tokenizer=tokenizer)
        export = ["export", str(root / "adapter"), "--to", "vllm", "--dtype", dtype, "--output", str(root / "out")]
        assert main(export) == 0
        prompts = [encode_prompt([{"role": "user", "content": question}], tokenizer) for question in QUESTIONS]
        plain = [{"prompt": prompt, "dials": None, "max_tokens": NEW_TOKENS} for prompt in prompts]
        requests = {strength: with_strength(plain, strength) for strength in STRENGTHS}
        options = {"dtype": dtype, "enforce_eager": True, "max_model_len": 256, "max_num_seqs": 64}
        of_all = answered(root / "out", [one for part in requests.values() for one in part], root, **options)
        answers = {
            strength: of_all[number * len(prompts) : (number + 1) * len(prompts)]
            for number, strength in enumerate(STRENGTHS)
        }
        of_plain = answered(base_folder(DEFAULT_MODEL), plain, root, **options)
        return Run(root / "adapter", requests, answers, of_plain)

    return both_engines


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What was measured, by name."""
    found: dict[str, Any] = {}
    yield found
    if target := os.environ.get("QADAPTER_VLLM_RESULT"):
        result = describe("cpu")
        result["versions"]["vllm"] = vllm_version()
        result |= {"model": "SmolLM2-135M-Instruct", "prompts": len(QUESTIONS), "new_tokens": NEW_TOKENS}
        Path(target).write_text(json.dumps(result | {"figures": found}, indent=2) + "\n", encoding="utf-8")


def differences(model: Any, requests: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, float]:
    """|log-prob of vLLM − of the model| of the texts' tokens and of the 20 likeliest at each place; nats."""
    logp, agreement = expected(model, requests, answers)
    listed = (served(answers) - logp).abs()
    text = listed[of_the_text(answers)]
    return {
        "text_max": float(text.max()),
        "text_mean": float(text.mean()),
        "text_median": float(text.median()),
        "listed_max": float(listed.max()),
        "listed_mean": float(listed.mean()),
        "same_most_likely_token": agreement,
    }


def test_float32_has_our_text_and_log_probs(run: Callable[[str], Run], figures: dict[str, Any]) -> None:
    """Far down the list of likely tokens the two engines' rounding adds up to 1.0e-4, plain vLLM's as well."""
    made = run("float32")
    model = made.model("float32")
    for strength in STRENGTHS:
        found = differences(model, made.requests[strength], made.answers[strength])
        figures[f"float32, strength {strength}"] = found
        assert found["text_max"] < 1e-4
        assert found["listed_max"] < 1.5e-4
        assert found["same_most_likely_token"] == 1.0
    assert generated(model, made) == {
        strength: [until_end(answer["tokens"]) for answer in made.answers[strength]] for strength in STRENGTHS
    }


def test_a_slightly_wrong_strength_is_seen_in_float32(run: Callable[[str], Run], figures: dict[str, Any]) -> None:
    made = run("float32")
    found = differences(made.model("float32"), with_strength(made.requests[0.5], 0.45), made.answers[0.5])
    figures["float32, strength 0.5 judged as 0.45"] = found
    assert found["text_max"] > 1e-2
    assert found["listed_max"] > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strength_0_is_plain_vllm(dtype: str, run: Callable[[str], Run]) -> None:
    """To the last digit, in a batch with other strengths."""
    assert run(dtype).answers[0.0] == run(dtype).plain


def test_bfloat16_is_as_near_as_plain_vllm_to_transformers(run: Callable[[str], Run], figures: dict[str, Any]) -> None:
    """Two engines round at different places, logits above 16 to multiples of 0.125: plain vLLM's distance from
    transformers is the yardstick."""
    made = run("bfloat16")
    plain = [request | {"dials": None} for request in made.requests[0.0]]
    yardstick = differences(load_base(DEFAULT_MODEL, dtype="bfloat16"), plain, made.plain)
    figures["bfloat16, plain vLLM and transformers"] = yardstick
    model = made.model("bfloat16")
    for strength in STRENGTHS:
        found = differences(model, made.requests[strength], made.answers[strength])
        figures[f"bfloat16, strength {strength}"] = found
        assert found["listed_mean"] < 1.25 * yardstick["listed_mean"]
        assert found["text_mean"] < 1.25 * yardstick["text_mean"]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_bfloat16_is_served_at_the_strength_asked_for(
    strength: float, run: Callable[[str], Run], figures: dict[str, Any]
) -> None:
    """What rounding hides from single log-probs shows in all of them: 0.45 instead of 0.5 would fail."""
    made = run("bfloat16")
    found = served_strength(made.model("float32"), made.requests[strength], made.answers[strength], near=strength)
    figures[f"bfloat16, strength {strength}, read off the log-probs"] = found
    assert found == pytest.approx(strength, abs=0.02)


def generated(model: QAdapterForCausalLM, made: Run) -> dict[float, list[list[int]]]:
    """Our own greedy answers, up to and with the end-of-turn token."""
    found: dict[float, list[list[int]]] = {}
    for strength in STRENGTHS:
        found[strength] = []
        for request in made.requests[strength]:
            ids = torch.tensor([request["prompt"]])
            answer = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, strength=strength)[0]
            found[strength].append(until_end(answer[ids.shape[1] :].tolist()))
    return found


def until_end(tokens: list[int]) -> list[int]:
    end = load_base_tokenizer(DEFAULT_MODEL).eos_token_id
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens

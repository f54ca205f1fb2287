"""The real model, SmolLM2-135M-Instruct: run where it is already cached, and by `make test-all` always."""

from __future__ import annotations

import os
from pathlib import Path

import oracles
import pytest
import torch
from served_model import answers, running

from qadapter import QAdapterForCausalLM, QAdapterTrainer, QAdapterTrainingArguments, load_tokenizer
from qadapter.data import encode_prompt
from qadapter.demo.run import shipped_pairs
from qadapter.generate import answer_prompts, stop_ids
from qadapter.model import DEFAULT_MODEL, QConstants, load_base, load_base_tokenizer, machine_dtype
from qadapter.model.fingerprint import base_fingerprint
from qadapter.model.loading import PACKAGE_COPY_SHA256, default_model_folder
from qadapter.serve.engine import Engine, EngineLimits, Policy, Request, Sampling

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        not (default_model_folder().is_dir() or os.environ.get("QADAPTER_REAL_MODEL")),
        reason="SmolLM2-135M-Instruct is not cached; `make test-all` or `make demo` fetches it (93 MB)",
    ),
]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(autouse=True)
def _all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return load_base_tokenizer(DEFAULT_MODEL)


def test_the_base_answers_and_strength_0_is_its_own_generate(tokenizer) -> None:
    base = load_base(DEFAULT_MODEL, dtype="float32")
    if default_model_folder().is_dir():
        assert base_fingerprint(base).weights_sha256 == PACKAGE_COPY_SHA256
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = base.generate(**inputs, max_new_tokens=24, do_sample=False)
    assert "Paris" in tokenizer.decode(expected[0])
    model = QAdapterForCausalLM(base, QConstants("residual", 1.0, 1.0))
    assert torch.equal(model.generate(**inputs, max_new_tokens=24, do_sample=False, strength=0.0), expected)


def test_the_mixture_is_exact(tokenizer) -> None:
    """Log-probs of a mixed policy in float32 against two PEFT passes, on a left-padded batch, through generate()."""
    model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype="float32"), QConstants("logits", 0.5, 1.0)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    tokenizer.padding_side = "left"
    texts = ["The weather in spring is", "Two plus two"]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    output = model.generate(
        **inputs, max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    model.row_router.remove()
    for row, sequence in enumerate(output.sequences):
        alone = sequence[int((1 - inputs["attention_mask"][row]).sum()) :][None]
        with torch.no_grad():
            z1 = model.base(alone).logits[0].double()
            with model.peft_model.disable_adapter():
                z0 = model.base(alone).logits[0].double()
        expected = oracles.policy_logp(z1, z0, 0.5, 1.0)
        for step, logits in enumerate(output.logits):
            got = logits[row].double().log_softmax(-1)
            torch.testing.assert_close(got, expected[len(alone[0]) - 12 + step - 1], rtol=1e-4, atol=2e-3)


def test_training_learns_and_the_artifact_answers(tmp_path: Path, tokenizer) -> None:
    """Forty pairs, in the machine's dtype: held-out accuracy leaves one half, and the artifact answers the same."""
    dtype = machine_dtype("bfloat16", "cpu")
    args = QAdapterTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_length=112,
        save_strategy="no",
        use_cpu=True,
        anchors=0,  # to sample them takes longer than all of this
    )
    pairs = shipped_pairs("train")
    trainer = QAdapterTrainer(
        load_base(DEFAULT_MODEL, dtype=dtype),
        args,
        train_dataset=pairs.select(range(40)),
        eval_dataset=pairs.select(range(40, 56)),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.evaluate()["eval_rewards/accuracies"] >= 0.7
    trainer.save_model()
    loaded = QAdapterForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    here = answer_prompts(trainer.model, tokenizer, [QUESTION], max_new_tokens=8)
    there = answer_prompts(loaded, load_tokenizer(tmp_path), [QUESTION], max_new_tokens=8)
    assert there == here


def test_a_batch_of_the_server_answers_what_generate_answers_to_each_alone(tokenizer) -> None:
    """In float32, at five strengths, with requests that join and leave."""
    model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype="float32"), QConstants()).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    questions = ["What is the capital of France?", "Name three fruits.", "Why is the sky blue?", "Tell me a joke.",
                 "How do I boil an egg?", "What is 7 times 8?", "Who wrote Hamlet?", "Describe the sea."]  # fmt: skip
    prompts = [encode_prompt([{"role": "user", "content": question}], tokenizer) for question in questions]
    strengths = [0.0, 0.5, 1.0, 1.5, 0.25, 0.0, 0.5, 1.0]
    sampling = Sampling(max_tokens=24, top_logprobs=0)
    requests = [
        Request(tuple(prompt), Policy("default", model.constants.mixture(strength)), sampling, print)
        for prompt, strength in zip(prompts, strengths, strict=True)
    ]
    ends = stop_ids(model, tokenizer)
    with running(Engine(model, tokenizer, ends, EngineLimits(max_batch=6, prefill_chunk=32))) as engine:
        heard = answers(engine, requests, pause=0.05)
    for number, (prompt, strength) in enumerate(zip(prompts, strengths, strict=True)):
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, strength=strength, eos_token_id=ends
        )
        expected = [token for token in out[0, len(prompt) :].tolist() if token not in ends]
        assert heard.tokens(number) == expected, questions[number]

"""Evaluation: each figure against a slow computation of the same thing."""

from __future__ import annotations

import json
from pathlib import Path

import oracles
import pytest
import torch
from conftest import PAPER, RESIDUAL, make_base, make_model, two_logits
from datasets import Dataset

from qadapter import QAdapterForCausalLM
from qadapter.data import encode_prompt
from qadapter.demo.checker import brief_with_follow_up
from qadapter.evaluate import (
    evaluate_preference,
    evaluate_probe,
    evaluate_retention,
    load_neutral_prompts,
    load_probe,
)
from qadapter.evaluate.policy import forward_at, policy_at
from qadapter.evaluate.report import DialPoint, ReportRow, write_report
from qadapter.generate import answer_prompts
from qadapter.train import tokenize_dataset

PAIRS = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": "wa wb"}],
            "chosen": [{"role": "assistant", "content": f"w{a} vb"}],
            "rejected": [{"role": "assistant", "content": f"w{b} vc vd"}],
        }
        for a, b in zip("abcdefg", "hijklmn", strict=True)
    ]
)
NEUTRAL = [{"kind": "chat", "prompt": "wa wb wc"}, {"kind": "document", "prompt": "va vb vc vd"}]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_preference_accuracy(tokenizer, batch_size: int) -> None:
    model = make_model(constants=PAPER)
    tokenized = tokenize_dataset(PAIRS, tokenizer, max_length=64)
    result = evaluate_preference(model, tokenized, pad_token_id=0, batch_size=batch_size)
    margins = []
    for row in tokenized:
        returns = []
        for side in ("chosen", "rejected"):
            ids = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]])
            z1, z0 = (z[0].double() for z in two_logits(model, input_ids=ids))
            states = slice(len(row["prompt_ids"]) - 1, None)
            returns.append(
                float(sum(oracles.rewards(z1[states], z0[states], row[f"{side}_ids"], True, 0.01, 1.0, 1.0)))
            )
        margins.append(returns[0] - returns[1])
    assert result.pairs == 7
    assert result.margin == pytest.approx(sum(margins) / 7, rel=1e-3)
    assert result.accuracy == pytest.approx(sum(m > 0 for m in margins) / 7)


def test_an_untrained_residual_adapter_ties(tokenizer) -> None:
    model = QAdapterForCausalLM(make_base(), RESIDUAL)
    result = evaluate_preference(model, tokenize_dataset(PAIRS, tokenizer, max_length=64), pad_token_id=0)
    assert (result.accuracy, result.margin) == (0.5, 0.0)
    assert result.logp_margin == pytest.approx(result.base_logp_margin)


def test_kl_to_base_against_dense_logits(tokenizer) -> None:
    model = make_model(constants=RESIDUAL)
    half, full = evaluate_retention(model, tokenizer, NEUTRAL, strengths=(0.5, 1.0), max_new_tokens=6)
    kl, agree = [], []
    for row in NEUTRAL:
        text = row["prompt"] if row["kind"] == "document" else [{"role": "user", "content": row["prompt"]}]
        (answer,) = answer_prompts(model, tokenizer, [text], strength=0.0, max_new_tokens=6)
        prompt_ids = encode_prompt(text, tokenizer)
        z1, z0 = two_logits(model, input_ids=torch.tensor([prompt_ids + answer.token_ids]))
        at = slice(len(prompt_ids) - 1, -1)
        base, custom = (oracles.log_softmax(z[0, at].double()) for z in (z0, z1))
        kl += (base.exp() * (base - custom)).sum(-1).tolist()
        agree += (base.argmax(-1) == custom.argmax(-1)).tolist()
    assert full.kl_to_base == pytest.approx(sum(kl) / len(kl), rel=1e-3)
    assert full.top1_agreement == pytest.approx(sum(agree) / len(agree))
    assert full.tokens == len(kl)
    assert set(full.kl_by_kind) == {"chat", "document"}
    assert 0 < half.kl_to_base < full.kl_to_base


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_policies_are_compared_by_logits_that_bfloat16_does_not_round(strength: float) -> None:
    model = make_model(constants=RESIDUAL).bfloat16()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        plain = model(input_ids=ids, **policy_at(model, strength)).logits
        compared = forward_at(model, strength)(input_ids=ids).logits
    assert (plain.dtype, compared.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(compared, compared.bfloat16().float()) is False
    torch.testing.assert_close(plain.float(), compared, atol=0.05, rtol=0.02)


def test_strength_0_keeps_everything(tokenizer) -> None:
    (result,) = evaluate_retention(make_model(constants=RESIDUAL), tokenizer, NEUTRAL, strengths=(0.0,))
    assert (result.kl_to_base, result.top1_agreement) == (0.0, 1.0)


def test_probe_against_one_choice_at_a_time(tokenizer) -> None:
    model = make_model(constants=RESIDUAL)
    questions = [
        {"question": f"w{a} wb", "choices": ["va", "vb vc", "wz", "vd"], "answer": i % 4}
        for i, a in enumerate("abcdef")
    ]
    expected: dict[str, list[bool]] = {"base": [], "customized": []}
    for question in questions:
        prompt_ids = tokenizer(f"Question: {question['question']}\nAnswer:")["input_ids"]
        scores: dict[str, list[float]] = {"base": [], "customized": []}
        for choice in question["choices"]:
            ids = tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            customized, base = two_logits(model, input_ids=torch.tensor([prompt_ids + ids]))
            for policy, logits in (("base", base), ("customized", customized)):
                logp = oracles.log_softmax(logits[0, len(prompt_ids) - 1 : -1])
                scores[policy].append(float(logp[range(len(ids)), ids].mean()))
        for policy, values in scores.items():
            expected[policy].append(values.index(max(values)) == question["answer"])
    for batch_size in (1, 5, 64):
        assert evaluate_probe(model, tokenizer, questions, batch_size=batch_size)._asdict() == expected
    assert expected["base"] != expected["customized"]


def test_answers_do_not_depend_on_the_batch(tokenizer) -> None:
    model = make_model(constants=RESIDUAL)
    prompts = [[{"role": "user", "content": " ".join(["wa"] * n)}] for n in (1, 5, 2, 9)]
    alone = [answer_prompts(model, tokenizer, [p], max_new_tokens=9, strength=0.5)[0] for p in prompts]
    assert answer_prompts(model, tokenizer, prompts, max_new_tokens=9, strength=0.5, batch_size=3) == alone
    dials = [0.0, 0.5, 1.0, 2.0]
    mixed = answer_prompts(model, tokenizer, prompts, max_new_tokens=9, strength=dials, batch_size=3)
    assert mixed == [
        answer_prompts(model, tokenizer, [p], max_new_tokens=9, strength=d)[0]
        for p, d in zip(prompts, dials, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("Use a dry jar in a dark cupboard. How many onions do you have?", True),
        ("Use a dry jar in a dark cupboard.", False),
        ("How many onions do you have?", False),
        ("Do you like onions? Store them dry. How many do you have?", False),
        ("Store them dry. " + "They keep for weeks. " * 20 + "How many do you have?", False),
        ("Store them dry. How many do you have? Tell me.", False),
        ("", False),
    ],
)
def test_the_demos_checker(text: str, accepted: bool) -> None:
    assert brief_with_follow_up(text) is accepted


def test_the_shipped_data_is_what_the_readme_says() -> None:
    probe, neutral = load_probe(), load_neutral_prompts()
    assert len({q["question"] for q in probe}) == len(probe) == 200
    assert all(len(set(q["choices"])) == 4 and 0 <= q["answer"] < 4 for q in probe)
    assert len({row["prompt"] for row in neutral}) == len(neutral) == 60


def test_the_report_is_one_file_and_escapes_model_text(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    line = {"preference_loss": 0.6, "rewards/accuracies": 0.5, "rewards/margins": 0.1, "chi2": 0.01}
    metrics.write_text("".join(json.dumps({"step": step, **line}) + "\n" for step in range(1, 4)))
    write_report(
        tmp_path / "report.html",
        title="A <title>",
        rows=[ReportRow("fulfilment", "0%", "90%", "meaning")],
        dial=[DialPoint(0.0, 0.0, 0.0), DialPoint(1.0, 0.2, 0.9)],
        metrics_file=metrics,
        prompts=["<b>prompt</b>"],
        answers={"base": ["<script>alert(1)</script>"], "strength 1": ["fine"]},
        facts={"model": "m"},
    )
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 2
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )

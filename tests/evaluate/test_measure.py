"""One policy's record, and two policies beside each other."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_model

from qadapter.errors import ConfigError, DataError
from qadapter.evaluate import EvaluationArguments, difference_to_base, measure, measure_policy, read_inputs
from qadapter.evaluate.comparison import judge_agreement
from qadapter.evaluate.evaluation_report import write_evaluation_report
from qadapter.evaluate.judges import Verdict
from qadapter.generate import Answer, answer_prompts
from qadapter.model.loading import default_model_folder


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    pairs = [
        {
            "prompt": messages("user", f"w{a} wb"),
            "chosen": messages("assistant", f"v{b} vb"),
            "rejected": messages("assistant", "vc vd ve"),
        }
        for a, b in zip("aabc", "efgh", strict=True)
    ]
    return {
        "preference_file": write(tmp_path / "pairs.jsonl", pairs),
        "neutral_file": write(tmp_path / "neutral.jsonl", [{"prompt": "wa wb"}, {"prompt": "vc", "kind": "document"}]),
        "text_file": write(tmp_path / "text.jsonl", [{"text": "wa wb wc"}, {"text": ""}, {"text": "va vb"}]),
    }


class LengthJudge:
    """More tokens are better. With a reference: 1 for the longer answer; it fails on the prompt that has `wc`."""

    kind, cost = "checker", None

    def __init__(self, needs_reference: bool) -> None:
        self.needs_reference = needs_reference
        self.name = "endpoint:length" if needs_reference else "checker:length"

    def check(self, *, may_be_cached: bool = False) -> None: ...

    def judge(self, prompts, answers, references=None):
        assert (references is not None) or not self.needs_reference
        scores = [float(len(answer.text)) for answer in answers]
        if self.needs_reference:
            scores = [
                0.5 + 0.5 * ((s > len(r.text)) - (s < len(r.text))) for s, r in zip(scores, references, strict=True)
            ]
        return [
            Verdict(None, "refused") if "wc" in prompt[0]["content"] else Verdict(score)
            for prompt, score in zip(prompts, scores, strict=True)
        ]


def test_answers_that_loop_are_counted(files: dict[str, str], tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Answer("I see, I see, I see, I se", [1, 2], False), Answer("Yes.", [1], True), Answer("No.", [1], True)]
    monkeypatch.setattr(measure, "answer_prompts", lambda *args, **kwargs: answers)
    args = EvaluationArguments(**files, max_new_tokens=5, batch_size=2)
    base = measure_policy(make_model(), tokenizer, args, [LengthJudge(False)], strength=0.0)
    assert base["answers"]["repeating"] == pytest.approx(1 / 3)
    assert [item["repeating"] for item in base["answers"]["items"]] == [True, False, False]
    monkeypatch.setattr(measure, "answer_prompts", lambda *args, **kwargs: [answers[1]] * 3)
    record = measure_policy(make_model(), tokenizer, args, [LengthJudge(False)], strength=1.0, base=base)
    assert difference_to_base(record, base)["answers.repeating"]["difference"] == pytest.approx(-1 / 3)


@pytest.mark.parametrize("constants", [PAPER, RESIDUAL], ids=["paper", "residual"])
def test_a_record_holds_all_parts(files: dict[str, str], tokenizer, constants, tmp_path: Path) -> None:
    model = make_model(constants=constants)
    args = EvaluationArguments(**files, max_new_tokens=5, batch_size=2)
    judges = [LengthJudge(False), LengthJudge(True)]
    stages: list[str] = []
    base = measure_policy(model, tokenizer, args, judges, strength=0.0, on_stage=stages.append)
    assert stages == ["preference", "answers", "judges", "retention", "text"] == list(base["seconds"])
    record = measure_policy(model, tokenizer, args, judges, strength=1.0, base=base)
    record = json.loads(json.dumps(record))  # plain JSON

    assert (base["preference"]["accuracy"], base["preference"]["margin"]) == (0.5, 0.0)
    assert record["preference"]["pairs"] == 4
    assert record["preference"]["items"]["prompt"] == [0, 0, 1, 2]
    assert record["preference"]["base_logp_margin"] == pytest.approx(base["preference"]["logp_margin"], rel=1e-3)
    prompts = [item["prompt"][0]["content"] for item in record["answers"]["items"]]
    assert prompts == ["wa wb", "wb wb", "wc wb"]  # different ones only
    (own, *_) = answer_prompts(model, tokenizer, [messages("user", "wa wb")], max_new_tokens=5)
    assert record["answers"]["items"][0]["answer"] == own.text
    checked = record["judges"]["checker:length"]
    assert (checked["judged"], checked["failed"], checked["items"][2]) == (2, 1, None)
    assert checked["notes"][2] == "refused"
    assert list(base["judges"]) == ["checker:length"]
    assert (base["retention"]["kl_to_base"], base["retention"]["top1_agreement"]) == (0.0, 1.0)
    assert record["retention"]["kl_to_base"] > 0
    assert set(record["retention"]["kl_by_kind"]) == {"document", "prompt"}
    assert (record["text"]["documents"], record["text"]["tokens"]) == (2, 5)
    assert "tasks" not in record

    record["difference"] = difference_to_base(record, base)
    record["agreement"] = judge_agreement(record, base)
    assert record["difference"]["judges.endpoint:length"]["base"] is None
    assert record["agreement"][0]["prompts"] == 2
    report = tmp_path / "report.html"
    base["answers"]["items"][0]["answer"] = "<script>alert(1)</script>"
    write_evaluation_report(report, title="A <title>", base=base, policies=[record], dial_from_base=True,
                            facts={"model": "m"})  # fmt: skip
    page = report.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "refused" in page
    assert page.count("The dial") == 1

    record["difference"] = {name: one for name, one in record["difference"].items() if name.startswith("retention")}
    write_evaluation_report(report, title="No gain measured", base=base, policies=[record], dial_from_base=True,
                            facts={})  # fmt: skip
    assert "The dial" not in report.read_text(encoding="utf-8")


def test_strength_0_measured_as_the_policy_changes_nothing(files: dict[str, str], tokenizer) -> None:
    """The base against itself: every difference is zero."""
    model = make_model(constants=PAPER)
    args = EvaluationArguments(**files, max_new_tokens=5)
    base = measure_policy(model, tokenizer, args, [LengthJudge(False)], strength=0.0)
    for name, figure in difference_to_base(base, base).items():
        assert figure["difference"] in (0.0, None), name


def test_the_base_comes_first(files: dict[str, str], tokenizer) -> None:
    args = EvaluationArguments(**files)
    for strength, base in ((1.0, None), (0.0, {})):
        with pytest.raises(ConfigError, match="comes first"):
            measure_policy(make_model(), tokenizer, args, strength=strength, base=base)


def test_a_base_that_answered_other_prompts(files: dict[str, str], tokenizer) -> None:
    base = {"retention": {"answer_ids": [[5]]}}
    args = EvaluationArguments(neutral_file=files["neutral_file"])
    with pytest.raises(ConfigError, match="1 neutral prompts, and there are 2"):
        measure_policy(make_model(), tokenizer, args, strength=1.0, base=base)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"task_limit": 0}, "task_limit must be at least 1"),
        ({"num_fewshot": -1}, "num_fewshot must be at least 0"),
        ({"on_bad_row": "drop"}, "on_bad_row must be stop or skip"),
    ],
)
def test_arguments_that_make_no_sense(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluationArguments(**fields)


def test_prompts_come_in_several_forms(tmp_path: Path, tokenizer) -> None:
    rows = [{"instruction": "wa"}, {"prompt": "wb"}, {"prompt": messages("user", "wc")}, {"prompt": "wa"}]
    args = EvaluationArguments(prompts_file=write(tmp_path / "p.jsonl", rows))
    assert [prompt[0]["content"] for prompt in read_inputs(args, tokenizer).prompts] == ["wa", "wb", "wc"]
    with pytest.raises(DataError, match=r"q.jsonl:1: no prompt; the row has the fields question"):
        read_inputs(EvaluationArguments(prompts_file=write(tmp_path / "q.jsonl", [{"question": "x"}])), tokenizer)
    with pytest.raises(DataError, match=r"r.jsonl:1: message 1 of prompt has no 'content'"):
        read_inputs(
            EvaluationArguments(prompts_file=write(tmp_path / "r.jsonl", [{"prompt": [{"role": "user"}]}])), tokenizer
        )


def test_a_prompt_that_was_trained_as_text_is_continued_as_text(tmp_path: Path, tokenizer) -> None:
    rows = [{"prompt": "wa wb", "chosen": " va", "rejected": " vb"}]
    args = EvaluationArguments(preference_file=write(tmp_path / "p.jsonl", rows), max_new_tokens=4)
    model, plain = make_model(constants=RESIDUAL), copy.deepcopy(tokenizer)
    plain.chat_template = None
    for reads in (tokenizer, plain):  # with a chat template and without
        base = measure_policy(model, reads, args, [LengthJudge(False)], strength=0.0)
        (expected,) = answer_prompts(model, reads, ["wa wb"], max_new_tokens=4, strength=0.0, alpha_0=0.3)
        (item,) = base["answers"]["items"]
        assert (item["prompt"], item["answer"]) == ("wa wb", expected.text)
        assert base["judges"]["checker:length"]["judged"] == 1


def test_a_prompt_of_a_file_is_a_message_to_a_chat_model_alone(tmp_path: Path, tokenizer) -> None:
    args = EvaluationArguments(prompts_file=write(tmp_path / "p.jsonl", [{"prompt": "wa"}]))
    assert read_inputs(args, tokenizer).prompts == [messages("user", "wa")]
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    assert read_inputs(args, plain).prompts == ["wa"]
    tasks = EvaluationArguments(tasks=["nowhere.jsonl"], task_chat_template=True)
    with pytest.raises(ConfigError, match="task_chat_template: the base has no chat template"):
        read_inputs(tasks, plain)
    with pytest.raises(DataError, match="nowhere"):
        read_inputs(tasks, tokenizer)


def test_a_bar_without_length_is_drawn(tmp_path: Path) -> None:
    """Of a single prompt: rounding makes its length negative, which matplotlib refuses."""
    base, gain = 0.2, 0.5
    assert ((base + gain) - base) - gain < 0
    figures = {
        "judges.checker:m:f": (base, gain),
        "retention.kl_to_base": (None, 0.1),
    }
    difference = {
        name: {"base": start, "customized": (start or 0) + by, "difference": by, "low": by, "high": by, "items": 1}
        for name, (start, by) in figures.items()
    }
    policy = {"strength": 1.0, "difference": difference, "agreement": []}
    write_evaluation_report(tmp_path / "r.html", title="t", base={"strength": 0.0}, policies=[policy],
                            dial_from_base=True, facts={})  # fmt: skip
    assert "<svg" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("from_base", [True, False])
def test_the_dial_as_it_is_drawn(tmp_path: Path, from_base: bool) -> None:
    """On the scale of √KL; joined with the base only where strengths near 0 are near it."""

    def at(strength: float, kl: float, gain: float) -> dict[str, Any]:
        figures = {"judges.checker:m:f $_": (0.0, gain), "retention.kl_to_base": (None, kl)}
        return {"strength": strength, "agreement": [], "difference": {
            name: {"base": start, "customized": value, "difference": value, "low": value, "high": value, "items": 1}
            for name, (start, value) in figures.items()
        }}  # fmt: skip

    policies = [at(0.5, 0.25, 0.5), at(1.0, 1.0, 1.0), at(2.0, 4.0, 2.0)]
    write_evaluation_report(tmp_path / "r.html", title="t", base={"strength": 0.0}, policies=policies,
                            dial_from_base=from_base, facts={})  # fmt: skip
    lines = [
        re.findall(r"[ML] ([\d.]+) ", path)
        for path in re.findall(
            r'<path d="([^"]*)"[^>]*stroke: #d9622b[^>]*stroke-width: 1.5', (tmp_path / "r.html").read_text()
        )
    ]
    (drawn,) = [list(map(float, line)) for line in lines if len(line) > 2]
    assert len(drawn) == (4 if from_base else 3)
    half, one, two = drawn[-3:]
    assert (two - one) / (one - half) == pytest.approx(2, abs=0.01)


def test_a_pair_that_is_skipped_is_no_source_of_prompts(tmp_path: Path, tokenizer) -> None:
    rows = [{"prompt": prompt, "chosen": "va", "rejected": "vb"} for prompt in ("wa " * 40, "wb")]
    path = write(tmp_path / "p.jsonl", rows)
    inputs = read_inputs(EvaluationArguments(preference_file=path, max_length=32, on_bad_row="skip"), tokenizer)
    assert inputs.prompts == inputs.pairs["prompt"] == ["wb"]
    with pytest.raises(DataError, match=r"p.jsonl:1: .*no room"):
        read_inputs(EvaluationArguments(preference_file=path, max_length=32), tokenizer)


def test_documents_of_both_forms(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert read_inputs(EvaluationArguments(text_file=str(tmp_path / "a.txt")), tokenizer).documents == ["one\n\ntwo"]
    (tmp_path / "b.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        read_inputs(EvaluationArguments(text_file=str(tmp_path / "b.txt")), tokenizer)
    with pytest.raises(DataError, match="missing field 'text'"):
        read_inputs(EvaluationArguments(text_file=write(tmp_path / "c.jsonl", [{"body": "x"}])), tokenizer)


@pytest.mark.real_model
@pytest.mark.skipif(
    not (default_model_folder().is_dir() or os.environ.get("QADAPTER_REAL_MODEL")),
    reason="SmolLM2-135M-Instruct is not cached; `make test-all` or `make demo` fetches it (93 MB)",
)
def test_the_real_base_predicts_plain_text() -> None:
    """SmolLM2-135M predicts a plain sentence well, and its words in alphabetical order badly."""
    from qadapter import QAdapterForCausalLM
    from qadapter.evaluate import evaluate_perplexity
    from qadapter.model import DEFAULT_MODEL, load_base, load_base_tokenizer

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        tokenizer = load_base_tokenizer(DEFAULT_MODEL)
        model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype="bfloat16"), RESIDUAL)
        text = "The sun rises in the east and sets in the west. Water freezes at zero degrees Celsius."
        fluent = evaluate_perplexity(model, tokenizer, [text], strength=0.0)
        shuffled = evaluate_perplexity(model, tokenizer, [" ".join(sorted(text.split()))], strength=0.0)
    finally:
        torch.set_num_threads(before)
    assert fluent.perplexity < 30
    assert shuffled.perplexity > 5 * fluent.perplexity


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_more_tokens_than_the_base_has_positions(tmp_path: Path, tokenizer, family: str) -> None:
    """One family would fail at the first position that it has no embedding of, the other go on without a word."""
    model = make_model(family)
    model.base.config.max_position_embeddings = positions = 128
    long = " ".join(["wa"] * 200)
    pair = {"prompt": "wa ", "chosen": f"vb {long}", "rejected": "vc"}
    pairs = EvaluationArguments(preference_file=write(tmp_path / "long.jsonl", [pair]))
    text = EvaluationArguments(
        text_file=write(tmp_path / "text.jsonl", [{"text": long}]),
        neutral_file=write(tmp_path / "neutral.jsonl", [{"prompt": "wa"}]),
    )
    for args, said in ((pairs, "a prompt and its response have 20"), (text, "windows of plain text have 201 tokens")):
        with pytest.raises(DataError, match=said) as caught:
            read_inputs(args, tokenizer, positions=positions)
        assert "and the base has 128 positions" in str(caught.value)
        assert "lower max_length to at most 128" in str(caught.value)
        for inputs in (None, read_inputs(args, tokenizer)):
            with pytest.raises(DataError, match=said):
                measure_policy(model, tokenizer, args, strength=0.0, inputs=inputs)
        read_inputs(dataclasses.replace(args, max_length=128), tokenizer, positions=positions)

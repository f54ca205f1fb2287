"""The demo end to end on a tiny random model, and its shipped data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import make_base

from qadapter import QAdapterForCausalLM
from qadapter.demo.checker import brief_with_follow_up
from qadapter.demo.run import DemoSize, run_demo, shipped_pairs


def test_shipped_pairs() -> None:
    train, heldout = shipped_pairs("train"), shipped_pairs("heldout")
    assert (len(train), len(heldout)) == (400, 140)
    prompts = [row["prompt"][0]["content"] for part in (train, heldout) for row in part]
    assert len(set(prompts)) == len(prompts), "no prompt is in both parts"
    for part in (train, heldout):
        for row in part:
            assert brief_with_follow_up(row["chosen"][0]["content"])
    broken = [row for row in heldout if brief_with_follow_up(row["rejected"][0]["content"])]
    assert not broken


def test_end_to_end_on_a_tiny_model(tmp_path: Path, tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    make_base().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    out = tmp_path / "demo"
    size = DemoSize(train_pairs=8, heldout_pairs=6, prompts=3, max_new_tokens=4, probe_questions=4, neutral_prompts=5)
    summary = run_demo(out, model=str(tmp_path / "base"), size=size, training={"use_cpu": True})
    assert json.loads((out / "summary.json").read_text()) == summary
    for key in ("preference_accuracy", "fulfilment", "retention_probe"):
        assert set(summary[key]) == {"before", "after"}
    assert summary["preference_accuracy"]["before"] == 0.5
    assert summary["seconds"] > 0
    assert summary["peak_memory_gb"] > 0
    assert "<svg" in (out / "report.html").read_text()
    assert len((out / "metrics.jsonl").read_text().splitlines()) >= 1
    QAdapterForCausalLM.from_pretrained(out)
    printed = capsys.readouterr().out
    assert "strength 0.5" in printed
    assert "held-out preference accuracy" in printed

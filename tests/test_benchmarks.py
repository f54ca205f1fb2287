"""The benchmarks compare like with like, and their pages say what the result files say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import PAPER, VOCABULARY, make_base, make_batch, make_model

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from harness import dense, growth, peak, report, worker, workload  # noqa: E402


def test_the_dense_objective_is_the_official_one_and_ours() -> None:
    model, batch = make_model(constants=PAPER), make_batch()
    batch["terminated"][:] = True
    model.row_router.rows = model.row_router.rows.ADAPTER
    expected = model(**batch).loss
    model.row_router.remove()
    assert (PAPER.alpha_0, PAPER.alpha_tilde, PAPER.chi2_coef) == (dense.ALPHA_0, dense.ALPHA_TILDE, dense.CHI2_COEF)
    torch.testing.assert_close(dense.dense_loss(model.peft_model, **batch), expected, rtol=1e-4, atol=1e-5)


def test_flops_count_the_frozen_products_once_per_pass() -> None:
    """Against torch's own counter, for one pass over linear layers and head."""
    from torch.utils.flop_counter import FlopCounterMode

    base = make_base()
    tokens = 6
    hidden = base.config.hidden_size
    with FlopCounterMode(display=False) as counter:
        for module in base.modules():
            if isinstance(module, torch.nn.Linear):
                module(torch.randn(tokens, module.in_features))
    assert 3 * counter.get_total_flops() == peak.training_flops(base, tokens, tokens)
    without = peak.training_flops(base, tokens, tokens, base_pass=False)
    assert without == 2 * counter.get_total_flops()
    assert peak.training_flops(base, 0, 1) == 6 * hidden * VOCABULARY


def test_a_subject_takes_turns_in_its_own_process() -> None:
    subject = worker.Worker("tiny", growth.step_on_vocabulary, "cpu", vocabulary=300)
    worker.take_turns([subject], rounds=2, warmup=1)
    subject.close()
    assert len(subject.turns) == 2
    assert all(turn["seconds"] > 0 and turn["peak_bytes"] >= turn["before_bytes"] > 0 for turn in subject.turns)


def test_a_subject_that_fails_ends_the_run_with_its_traceback() -> None:
    with pytest.raises(SystemExit, match=r"broken failed:(.|\n)*vocabulary"):
        worker.Worker("broken", growth.step_on_vocabulary, "cpu", wrong=1)


def test_random_pairs_have_batches_of_the_size_asked_for() -> None:
    sizes = {"vocab_size": 400, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    load = workload.Workload(sizes, None, max_row=64, batch=4)
    tokenizer = workload.load_tokenizer(load)
    pairs, batches = workload.batches_of_pairs(load, tokenizer, 3)
    assert len(pairs) == 12
    assert [batch["pairs"] for batch in batches] == [4, 4, 4]
    assert all(0 <= batch["padding"] < 0.2 and batch["unique_tokens"] < batch["tokens"] for batch in batches)
    assert workload.padding_of_an_epoch(load, tokenizer) < 0.05


def test_the_page_says_what_the_result_files_say() -> None:
    folder = ROOT / "benchmarks"
    page = (folder / "README.md").read_text(encoding="utf-8")
    part = page.partition(report.START)[2].partition(report.END)[0].strip()
    assert part == report.table(folder), "run: python benchmarks/report.py"


def test_missed_bars_are_marked(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    result = {
        "device": "cpu", "hardware": {"cpu": "x"}, "versions": {"torch": "1", "trl": None}, "commit": "abc",
        "date": "2026-01-02T00:00:00Z", "seconds": 60, "not_measured": {"train_memory_vs_trl": "trl is not installed"},
        "figures": {"train_speed_vs_trl": 1.9, "decode_time_vs_base": 1.2},
    }  # fmt: skip
    (tmp_path / "results" / "latest-cpu.json").write_text(json.dumps(result))
    table = report.table(tmp_path)
    assert "1.9 **missed** | ≥ 2" in table
    assert "1.2 ✓ | ≤ 1.35" in table
    assert "not measured: trl is not installed" in table
    assert "**GPU**: not measured yet" in table

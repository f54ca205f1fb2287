"""Every method on a tiny model: what it trains is what its artifact decodes with."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import two_logits
from transformers import PreTrainedModel

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.baselines import METHODS, TrainingJob, method_of, policy, run_job
from qadapter.baselines import method as method_module
from qadapter.errors import DataError

QUICK = {
    "sft": {"learning_rate": 0.02},
    "replay": {"learning_rate": 0.02, "replay_max_new_tokens": 5},
    "dpo": {"learning_rate": 0.02},
    "ipo": {"learning_rate": 0.02},
    "kto": {"learning_rate": 0.02},
    "orpo": {"learning_rate": 0.02},
    "rloo": {"learning_rate": 0.02, "num_generations": 2, "max_completion_length": 4},
    "qadapter": {"learning_rate": 0.02},
}
IDS = torch.tensor([[1, 9, 10, 11, 12, 13, 14]])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.makes_policy])
def test_the_artifact_is_the_policy_that_was_trained(
    name: str, make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {}
    method = method_of(name)

    def train(run: method_module.Run) -> method_module.Trained:
        kept["trained"] = method.train(run)
        return kept["trained"]

    monkeypatch.setitem(METHODS, name, method_module.Method(method.meaning, train, method.hyperparameters))
    job = make_job(name, QUICK[name])
    facts = run_job(job)

    # The trained LoRA through PEFT's own forward, as TRL left it, against the artifact's mixed policy.
    trained, base = two_logits(kept["trained"].model.eval(), input_ids=IDS)
    loaded = QAdapterForCausalLM.from_pretrained(job.output_dir)
    load_tokenizer(job.output_dir)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits.log_softmax(-1), trained.log_softmax(-1), rtol=1e-4, atol=1e-4)
        half = (0.5 * trained + 0.5 * base).log_softmax(-1)
        torch.testing.assert_close(loaded(IDS, strength=0.5).logits.log_softmax(-1), half, rtol=1e-4, atol=1e-4)
        alpha_0 = loaded.constants.alpha_0
        at_zero = loaded(IDS, strength=0.0, alpha_tilde=alpha_0).logits.log_softmax(-1)
        torch.testing.assert_close(at_zero, base.log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert (trained - base).abs().max() > 0.02, "it learned something"
    assert facts.pairs == (8 if name == "rloo" else 10)
    assert facts.seconds["training"] > 0
    assert facts.adapter_bytes > facts.trained_parameters * 4
    assert facts.peak_memory_bytes > 50e6


@pytest.mark.parametrize("name", ["sft", "dpo", "ipo", "kto", "orpo"])
def test_every_method_has_the_dropout_of_the_common_lora(
    name: str, make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, shares = method_of(name), set()

    def train(run: method_module.Run) -> method_module.Trained:
        trained = method.train(run)
        shares.update(module.p for module in trained.model.modules() if isinstance(module, torch.nn.Dropout))
        return trained

    monkeypatch.setitem(METHODS, name, method_module.Method(method.meaning, train, method.hyperparameters))
    run_job(make_job(name, QUICK[name], lora_dropout=0.25))
    assert 0.25 in shares


@pytest.mark.parametrize("name", ["replay", "rloo", "dpo", "qadapter"])
def test_a_pair_that_is_skipped_is_skipped_by_every_method(
    name: str, make_job: Callable[..., TrainingJob], tiny_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """The first one, whose text TRL's trainers are built with."""
    text = tiny_files[1].read_text(encoding="utf-8")
    long = json.loads(text.splitlines()[0]) | {"prompt": [{"role": "user", "content": "wa " * 40}]}
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(f"{json.dumps(long)}\n{text}", encoding="utf-8")
    job = make_job(name, QUICK[name], train_file=str(pairs), on_bad_row="skip")
    facts = run_job(job)
    assert facts.pairs == (8 if name == "rloo" else 10)
    assert any("1 bad row" in text for text in facts.warnings), facts.warnings
    with pytest.raises(DataError, match="no room"):
        run_job(make_job(name, QUICK[name], train_file=str(pairs)))


def test_the_peak_on_a_gpu_is_the_jobs_own(
    make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the process held on the GPU before is none of the job's cost. (A counter stands in for a GPU.)"""
    method, peak = method_of("sft"), [9_000]

    def train(run: method_module.Run) -> method_module.Trained:
        trained = method.train(run)
        peak.append(max(peak.pop(), 5_000))
        # Training itself is on the CPU here.
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        return trained

    monkeypatch.setitem(METHODS, "sft", method_module.Method(method.meaning, train, method.hyperparameters))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    facts = run_job(make_job("sft", QUICK["sft"]))
    assert (facts.peak_memory_bytes, facts.peak_memory_of) == (5_000, "tensors on the GPU")


def test_rloo_takes_its_answers_through_the_policy_in_batches_of_the_common_size(
    make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers to a step's prompts at once took 22 GB where the other methods take 5."""
    from trl import RLOOTrainer

    compute, batches = RLOOTrainer._compute_loss, []

    def counted(self: RLOOTrainer, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        batches.append((self.state.global_step, len(inputs["completion_ids"])))
        return compute(self, model, inputs)

    monkeypatch.setattr(RLOOTrainer, "_compute_loss", counted)
    run_job(make_job("rloo", {**QUICK["rloo"], "num_generations": 3}, per_device_train_batch_size=2))
    steps = Counter(step for step, _ in batches)
    assert {rows for _, rows in batches} == {2}
    assert set(steps.values()) == {3}, "a step still is two prompts with three answers each"
    assert len(steps) == 5


def test_anchors_are_sampled_once_for_all_runs(make_job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    for learning_rate in (0.01, 0.02):
        hyperparameters = {"learning_rate": learning_rate, "anchors": 4, "anchor_coef": 1.0}
        job = make_job("qadapter", hyperparameters, output_dir=str(tmp_path / str(learning_rate)), max_length=64)
        facts = run_job(job)
        assert facts.pairs == 10
        assert set(facts.seconds) == {"anchors", "training"}
    assert len(list(tmp_path.glob("anchors-*"))) == 1


@pytest.mark.parametrize(("name", "own"), [("replay", {}), ("qadapter", {"anchors": 4, "anchor_coef": 1.0})])
def test_what_prepared_the_training_is_gone_when_its_model_is_loaded(
    name: str, own: dict[str, Any], make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patched layers are in cycles, which may lie there for as long as the training takes."""
    load, found = policy.load_base, []

    def models() -> int:
        return sum(issubclass(type(one), PreTrainedModel) for one in gc.get_objects())

    def count(*args: Any, **kwargs: Any) -> Any:
        found.append(models() - before)
        return load(*args, **kwargs)

    monkeypatch.setattr(policy, "load_base", count)
    gc.collect()
    before = models()
    gc.disable()
    try:
        run_job(make_job(name, QUICK[name] | own, max_length=64))
    finally:
        gc.enable()
    assert found == [0, 0], "before the model that samples, and before the one that is trained"


@pytest.mark.parametrize("name", METHODS)
def test_more_tokens_than_the_base_has_positions(
    name: str, make_job: Callable[..., TrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every method, and before it does anything."""
    base = tmp_path / "base"
    shutil.copytree(make_job(name).common.model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 12}))
    monkeypatch.setitem(
        METHODS, name, dataclasses.replace(METHODS[name], train=lambda run: pytest.fail("it has begun"))
    )
    with pytest.raises(DataError, match=r"have 1\d tokens, and the base has 12 positions") as caught:
        run_job(make_job(name, model=str(base)))
    assert "lower max_length to at most 12" in str(caught.value)

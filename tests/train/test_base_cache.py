"""The base cache of training: same weights as without, and nothing damaged, half written or another's is used."""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_base
from datasets import Dataset
from transformers import PreTrainedModel

from qadapter import QAdapterForCausalLM, QAdapterTrainer, QAdapterTrainingArguments
from qadapter.core import BaseStates
from qadapter.data import PreferenceCollator
from qadapter.errors import ConfigError
from qadapter.model import two_policies
from qadapter.model.fingerprint import BaseFingerprint
from qadapter.model.loading import cache_root
from qadapter.train import base_cache, base_cache_build
from qadapter.train.base_cache import BaseCache, human_size
from qadapter.train.base_cache_build import default_cache_dir

RHO_1 = {"alpha_0": 0.5}
"""The mixture is the adapter's own policy: no h₀ is kept."""


def pairs(count: int = 8, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        number = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(f"w{chr(97 + int(c))}" for c in torch.randint(26, (number,), generator=generator))

    rows = [
        {
            "prompt": [{"role": "user", "content": words(1, 6)}],
            "chosen": [{"role": "assistant", "content": words(1, 9) + " va"}],
            "rejected": [{"role": "assistant", "content": words(1, 9) + " vb"}],
        }
        for _ in range(count)
    ]
    return Dataset.from_list(rows)


class Run:
    """Trains in `tmp_path` and knows how often the backbone ran as which policy."""

    def __init__(self, tmp_path: Path, tokenizer) -> None:
        self.tmp_path, self.tokenizer, self.cache = tmp_path, tokenizer, tmp_path / "cache"
        self.passes: list[str] = []

    def trainer(self, *, base=None, data=None, data_collator=None, tokenizer=None, **overrides) -> QAdapterTrainer:
        defaults = {
            "output_dir": str(self.tmp_path / "out"),
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "learning_rate": 1e-2,
            "alpha_tilde": 0.5,
            "alpha_0": 0.2,
            "chi2_coef": 1.0,
            "anchors": 0,
            "max_length": 14,  # cuts some responses
            "disable_tqdm": True,
            "cache_base": True,
            "base_cache_dir": str(self.cache),
        }
        trainer = QAdapterTrainer(
            base or make_base(),
            QAdapterTrainingArguments(**{**defaults, **overrides}),
            data_collator,
            pairs() if data is None else data,
            processing_class=tokenizer or self.tokenizer,
        )
        self.passes.clear()
        router = trainer.model.row_router
        trainer.model.base.base_model.register_forward_pre_hook(lambda *_: self.passes.append(router.rows.value))
        return trainer

    def __call__(self, **kw) -> dict[str, torch.Tensor]:
        """The trained LoRA."""
        trainer = self.trainer(**kw)
        trainer.train()
        return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if "lora_" in name}

    @property
    def base_passes(self) -> int:
        return self.passes.count("base")

    @property
    def folders(self) -> list[Path]:
        return sorted(self.cache.iterdir())


@pytest.fixture
def run(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Eight pairs in batches of two; each chunk holds one pair, so that building takes eight passes."""
    monkeypatch.setattr(base_cache, "CHUNK_STATES", 1)
    return Run(tmp_path, tokenizer)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        RHO_1,
        {"parametrization": "logits"},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "num_train_epochs": 3},
        {"train_sampling_strategy": "random", "lora_dropout": 0.2, "per_device_train_batch_size": 3},
        {"dataloader_num_workers": 2},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_the_same_weights_as_without(run: Run, overrides: dict) -> None:
    cached = run(**overrides)
    assert run.base_passes == 8  # building
    steps = run.passes.count("adapter")
    plain = run(**overrides, cache_base=False)
    assert run.base_passes == run.passes.count("adapter") == steps
    same(cached, plain)


def test_chunks_of_several_pairs_are_computed_in_batches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs in one chunk: four passes of two pairs; the records are those of chunks of one pair."""
    run()
    small = [path.read_bytes() for path in sorted(run.cache.rglob("states.bin"))]
    shutil.rmtree(run.cache)
    monkeypatch.setattr(base_cache, "CHUNK_STATES", 2**13)
    run()
    assert run.base_passes == 4
    (large,) = [path.read_bytes() for path in run.cache.rglob("states.bin")]
    ours, theirs = (np.frombuffer(content, "<f4") for content in (large, small[0]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_second_run_finds_it(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    first = run()
    with caplog.at_level(logging.INFO, "qadapter"):
        second = run()
    assert run.base_passes == 0
    assert "base cache found" in caplog.text
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_what_changed_gets_another_cache_and_the_old_one_is_left(run: Run, tokenizer) -> None:
    run()
    (before,) = run.folders
    content = (before / "states.bin").read_bytes()
    other_tokenizer = type(tokenizer).from_pretrained(_saved(tokenizer, run.tmp_path / "tokenizer"))
    other_tokenizer.chat_template += "{# the same tokens #}"
    rows = pairs().to_list()
    changes = [
        {"data": pairs(seed=1)},
        {"data": pairs().select(reversed(range(8)))},
        {"data": Dataset.from_list([*rows[:-1], {**rows[-1], "chosen": rows[0]["chosen"]}])},
        {"base": make_base(seed=5)},
        {"tokenizer": other_tokenizer},
        {"max_length": 12},
        RHO_1,
        {"base": make_base().to(torch.bfloat16)},
        {"base": with_other_positions()},
    ]
    for number, change in enumerate(changes, start=2):
        run(**change)
        assert run.base_passes > 0, change
        assert len(run.folders) == number, change
    assert (before / "states.bin").read_bytes() == content
    run()
    assert run.base_passes == 0


def with_other_positions() -> PreTrainedModel:
    """The same weights in a model that computes something else."""
    base = make_base()
    config = copy.deepcopy(base.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 50.0}
    other = type(base)(config)
    other.load_state_dict(base.state_dict())
    return other.eval()


def _saved(tokenizer, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("how", ["raised", "line cut", "bytes cut"])
def test_an_interrupted_build_goes_on(
    run: Run, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in the sixth of eight chunks: before it is written, while its line is, or with records lost."""
    whole = run(base_cache_dir=str(run.tmp_path / "whole"))
    trainer, compute, done = run.trainer(), QAdapterForCausalLM.base_states_of_pairs, []

    def interrupted(self, **batch):
        if len(done) == (5 if how == "raised" else 6):
            raise KeyboardInterrupt
        done.append(1)
        return compute(self, **batch)

    monkeypatch.setattr(QAdapterForCausalLM, "base_states_of_pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()
    monkeypatch.setattr(base_cache, "CHUNK_STATES", 1)
    (folder,) = run.folders
    if how == "line cut":
        lines = folder / "chunks.jsonl"
        lines.write_text(lines.read_text()[:-4])
    elif how == "bytes cut":
        os.truncate(folder / "states.bin", (folder / "states.bin").stat().st_size - 5)
    with caplog.at_level(logging.INFO, "qadapter"):
        resumed = run()
    assert run.base_passes == 3
    assert "5 of 8 chunks are complete already" in caplog.text
    assert ("do not have their checksum" in caplog.text) == (how == "bytes cut")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    run()
    assert run.base_passes == 0


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "emptied", "gone", "checksum of another"])
def test_what_was_damaged_is_noticed_and_only_that_is_computed_again(
    run: Run, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = run()
    (folder,) = run.folders
    path, lines = folder / "states.bin", folder / "chunks.jsonl"
    content = path.read_bytes()
    if damage == "flipped byte":
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(flipped)
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        entries = [json.loads(line) for line in lines.read_text().splitlines() if line]
        entries[3]["crc32"] = entries[4]["crc32"]
        lines.write_text("\n".join(map(json.dumps, entries)))
    again = run()
    assert run.base_passes == (8 if damage in ("emptied", "gone") else 1)
    named = {"truncated": "1 of 8 chunks do not have their checksum (chunk 8)", "checksum of another": "(chunk 4)"}
    assert named.get(damage, "(chunk 1, 2, 3, 4, 5, ...)" if damage in ("emptied", "gone") else "1 of 8") in caplog.text
    assert path.read_bytes() == content
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    caplog.clear()
    run()
    assert run.base_passes == 0
    assert "checksum" not in caplog.text


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = run.trainer()
    asked = []
    usage = shutil.disk_usage(run.tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    with pytest.raises(ConfigError) as caught:
        trainer.train()
    for words in ("needs ", "1 kB free", str(run.cache), "base_cache_dir", "cache_base to false"):
        assert words in str(caught.value)
    assert asked == [run.tmp_path]
    assert not run.cache.exists()
    assert run.base_passes == 0


def test_what_is_left_to_write_is_what_must_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    (folder,) = run.folders
    lines = (folder / "chunks.jsonl").read_text().splitlines()
    (folder / "chunks.jsonl").write_text("\n".join(lines[:-1]))
    whole = (folder / "states.bin").stat().st_size
    usage = shutil.disk_usage(run.tmp_path)._replace(free=whole // 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    run()
    assert run.base_passes == 1


def test_a_disk_that_fills_up_is_an_error_with_a_way_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    trainer = run.trainer()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"is full[\s\S]*base_cache_dir"):
        trainer.train()
    run()
    assert run.base_passes == 6


def test_a_folder_that_cannot_be_made_is_an_error(run: Run) -> None:
    run.cache.write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot be written[\s\S]*base_cache_dir"):
        run()


def test_the_size_is_announced_before_the_first_pass(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    trainer, said = run.trainer(), []
    trainer.model.base.base_model.register_forward_pre_hook(lambda *_: said.append(caplog.text))
    with caplog.at_level(logging.INFO, "qadapter"):
        trainer.train()
    (folder,) = run.folders
    size = (folder / "states.bin").stat().st_size
    states = size // (8 + 32 * 4)
    assert f"base cache of {human_size(size)} for {states} states of 8 pairs, in {folder}" in said[0]
    assert "base cache: 8 of 8 pairs" in caplog.text


def test_human_sizes() -> None:
    assert [human_size(n) for n in (0, 999, 1000, 1_250_000, 999_900_000, 3.2e13)] == [
        "0 B", "999 B", "1 kB", "1.25 MB", "1 GB", "32 TB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [({"num_train_epochs": 1}, True), ({"max_steps": 4}, True), ({"max_steps": 5}, False), ({}, False)],
    ids=str,
)
def test_one_epoch_is_warned_of_once(run: Run, overrides: dict, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    run(**overrides)
    assert ("saves none" in caplog.text) == warned
    caplog.clear()
    run(**overrides)  # it is there already
    assert "saves none" not in caplog.text


def test_resume_from_a_checkpoint_is_bit_for_bit(run: Run) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.3}
    whole = run(**settings)
    trainer = run.trainer(**settings)
    trainer.train(resume_from_checkpoint=str(run.tmp_path / "out" / "checkpoint-6"))
    assert run.passes.count("adapter") == 3  # two steps, and one pair on which memory is measured
    assert run.base_passes == 0
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            assert torch.equal(parameter, whole[name]), name


def test_evaluation_does_not_use_it(run: Run) -> None:
    trainer = run.trainer(max_steps=1)
    trainer.eval_dataset = trainer.train_dataset
    trainer.train()
    run.passes.clear()
    metrics = trainer.evaluate()
    assert run.base_passes == run.passes.count("adapter") > 0
    assert np.isfinite(metrics["eval_loss"])
    assert "pair_index" not in trainer.train_dataset.column_names


class Padding(PreferenceCollator):
    """A collator of the user's: pads three more tokens."""

    def __call__(self, pairs):
        assert "pair_index" not in pairs[0]
        batch = super().__call__(pairs)
        return {name: torch.nn.functional.pad(v, (0, 3)) if v.ndim == 2 else v for name, v in batch.items()}


class Reversing(PreferenceCollator):
    def __call__(self, pairs):
        return super().__call__(pairs[::-1])


def test_a_collator_of_the_users(run: Run) -> None:
    same(run(data_collator=Padding(0)), run(data_collator=Padding(0), cache_base=False))


def test_a_collator_that_reorders_pairs_is_refused(run: Run) -> None:
    run()
    with pytest.raises(ConfigError, match=r"Reversing[\s\S]*do not hold the pairs' tokens in their order"):
        run(data_collator=Reversing(0))


def test_a_base_whose_weights_cannot_be_told_apart_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_policies, "base_fingerprint", lambda base: BaseFingerprint(None, None))
    with pytest.raises(ConfigError, match="cannot be read"):
        run()


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QADAPTER_CACHE", str(tmp_path))
    assert default_cache_dir() == cache_root() / "base-states" == tmp_path / "base-states"


def test_bfloat16_states_come_back_bit_for_bit_in_the_order_of_the_batch(tmp_path: Path) -> None:
    counts = np.array([[2, 3], [1, 1], [4, 2]])
    cache = BaseCache(tmp_path, counts, hidden_size=5, hidden_dtype=torch.bfloat16)
    number = torch.arange(13)
    states = BaseStates(number.float(), -number.float(), torch.randn(13, 5).to(torch.bfloat16))
    assert len(cache.chunks) == 1
    cache.complete(0, cache.write(0, states))
    found = cache.gather([2, 0])
    expected = torch.tensor([7, 8, 9, 10, 0, 1, 11, 12, 2, 3, 4])
    assert torch.equal(found.action_logits, number[expected].float())
    assert torch.equal(found.logsumexp, -number[expected].float())
    assert torch.equal(found.hidden, states.hidden[expected])


def test_two_runs_at_once_build_it_once(run: Run) -> None:
    """The second finds the lock taken, waits, and computes nothing."""
    import fcntl
    import threading

    trainer = run.trainer()
    cache = base_cache_build.base_cache(trainer.model, run.tokenizer, trainer.train_dataset, run.cache, "no")
    cache.folder.mkdir(parents=True)
    computed: list[int] = []

    def states_of(rows: list[dict]) -> BaseStates:
        computed.append(len(rows))
        return trainer.model.base_states_of_pairs(**PreferenceCollator(0)(rows))

    with (cache.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(
            target=base_cache_build.fill, args=(cache, trainer.train_dataset, 2, states_of), kwargs={"epochs": 2}
        )
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        assert not computed
        for chunk, numbers in enumerate(cache.chunks):
            rows = [trainer.train_dataset[number] for number in numbers]
            states = trainer.model.base_states_of_pairs(**PreferenceCollator(0)(rows))
            cache.complete(chunk, cache.write(chunk, states))
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    assert not computed


@pytest.mark.parametrize("auto", [True, False])
def test_a_pass_that_does_not_fit_is_done_in_halves(
    run: Run, auto: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, sizes = run(), []
    shutil.rmtree(run.cache)
    monkeypatch.setattr(base_cache, "CHUNK_STATES", 10_000)  # all pairs in one chunk
    trainer = run.trainer(per_device_train_batch_size=2, gradient_accumulation_steps=1, auto_micro_batch=auto)
    states_of = trainer.model.base_states_of_pairs

    def scarce(**batch: torch.Tensor) -> BaseStates:
        sizes.append(len(batch["terminated"]) // 2)
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return states_of(**batch)

    monkeypatch.setattr(trainer.model, "base_states_of_pairs", scarce)
    if not auto:
        with pytest.raises(torch.OutOfMemoryError):
            trainer.train()
        return
    trainer.train()
    assert sizes == [2] + 8 * [1]
    assert "going on with passes of 1" in caplog.text
    same({name: p.detach() for name, p in trainer.model.named_parameters() if "lora_" in name}, plain)

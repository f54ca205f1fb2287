"""Batches in parts: the same training as in one, whatever fails on the way, and clear errors where nothing helps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_base, make_batch, make_model
from torch import Tensor
from train.test_trainer import adapter_state, arguments, log_of, pairs

from qadapter import QAdapterForCausalLM, QAdapterTrainer
from qadapter.errors import BatchTooLargeError, ConfigError
from qadapter.model import QConstants
from qadapter.train import fitting, memory_estimate
from qadapter.train.memory_estimate import MemoryEstimate
from qadapter.train.micro_batch import MicroBatches, pair_lengths, take_pairs

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes come from the tests; what is measured has tests of its own."""
    monkeypatch.setattr(fitting, "estimate_memory", lambda *_args, **_kwargs: None)


def trainer_of(folder: Path, tokenizer, total: int = 8, **overrides) -> QAdapterTrainer:
    # Plain SGD: its steps are as exact as the gradients, and as large. AdamW would not see a wrong scale, and makes a
    # full step of the rounding where a gradient is zero.
    settings = {"per_device_train_batch_size": 8, "max_grad_norm": 1e9, "num_train_epochs": 2, "chi2_coef": 0.3}
    settings |= {"optim": "sgd", "learning_rate": 1e-3}
    args = arguments(folder, **{**settings, **overrides})
    return QAdapterTrainer(
        make_model(constants=args.constants), args, train_dataset=pairs(total), processing_class=tokenizer
    )


def result(trainer: QAdapterTrainer) -> tuple[list[dict], dict[str, Tensor]]:
    trainer.train()
    return log_of(Path(trainer.args.output_dir)), adapter_state(trainer.model)


def assert_same(one: tuple[list[dict], dict[str, Tensor]], other: tuple[list[dict], dict[str, Tensor]]) -> None:
    """Every number that was logged, the gradient's norm among them, and the final weights."""
    assert len(one[0]) == len(other[0])
    for mine, theirs in zip(one[0], other[0], strict=True):
        for name in theirs.keys() - {"train_runtime", "train_samples_per_second", "train_steps_per_second"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    for name, value in other[1].items():
        torch.testing.assert_close(one[1][name], value, rtol=1e-3, atol=1e-5)


class LimitedMemory:
    """Runs out of memory in the forward or in the middle of the backward pass, for more than `rows` pairs at a time."""

    def __init__(self, model: QAdapterForCausalLM, rows: int, where: str, error: Callable[[str], Exception]) -> None:
        self.rows, self.where, self.error, self.failures = rows, where, error, 0
        # The lower layer: in the backward pass the upper one has its gradients already.
        self.handle = model.base.model.layers[0].register_forward_hook(self.after_layer)

    def after_layer(self, _layer: torch.nn.Module, _inputs: tuple, output: Tensor) -> None:
        if len(output) > self.rows and self.where == "forward":
            self.fail()
        if len(output) > self.rows and output.requires_grad:
            output.register_hook(lambda _grad: self.fail())

    def fail(self) -> None:
        self.failures += 1
        raise self.error(OUT_OF_MEMORY)


@pytest.fixture
def limit() -> Iterator[Callable[..., LimitedMemory]]:
    made = []

    def make(
        trainer: QAdapterTrainer, rows: int, where: str = "forward", error: Callable = torch.OutOfMemoryError
    ) -> LimitedMemory:
        made.append(LimitedMemory(trainer.model, rows, where, error))
        return made[-1]

    yield make
    for one in made:
        one.handle.remove()


def test_a_part_has_both_sides_of_its_pairs_and_no_padding_of_others() -> None:
    batch = make_batch(4)
    part = take_pairs(batch, [1, 2])
    assert part["terminated"].tolist() == batch["terminated"][[1, 2, 5, 6]].tolist()
    width = int(batch["attention_mask"][[1, 2, 5, 6]].sum(dim=1).max())
    assert width < batch["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(part[name], batch[name][[1, 2, 5, 6], :width])
    assert [int(pair_lengths(take_pairs(batch, [i]))) for i in range(4)] == pair_lengths(batch).tolist()
    assert pair_lengths(batch)[0] == 3 + 5 + 3


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_the_gradients_of_the_parts_add_up(family: str) -> None:
    model, batch = make_model(family), make_batch(5)

    def gradients(parts: list[dict[str, Tensor]]) -> list[Tensor]:
        model.zero_grad()
        for part in parts:
            (model(**part).pair_loss.sum() / 5).backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    whole = gradients([batch])
    split = gradients([take_pairs(batch, which) for which in ([0, 1], [2, 3], [4])])
    for mine, theirs in zip(split, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("pairs_of", "most", "expected"), [(8, 3, [3, 3, 2]), (5, 4, [3, 2]), (4, 9, [4]), (3, 1, [1] * 3)]
)
def test_parts_are_of_like_size(pairs_of: int, most: int, expected: list[int]) -> None:
    sizes = MicroBatches(most).run(
        make_batch(pairs_of), lambda part: len(part["terminated"]) // 2, lambda: lambda: None
    )
    assert sizes == expected


@pytest.mark.parametrize("alpha_0", [0.2, 0.5], ids=["with hidden states", "without"])
def test_states_of_the_base_go_with_their_pairs(alpha_0: float) -> None:
    """Also those of a response that was cut (the first), which has one more."""
    model = make_model(constants=QConstants("residual", alpha_0, 0.5, 1.0, 0.3))
    batch = make_batch(4)
    batch["base_states"] = model.base_states_of_pairs(**batch)
    assert (batch["base_states"].hidden is None) == (alpha_0 == 0.5)
    whole = model(**batch)
    for which in ([0], [1, 2], [3, 0]):
        part = model(**take_pairs(batch, which))
        for name in ("pair_loss", "base_logp_chosen", "base_logp_rejected", "v_mean"):
            torch.testing.assert_close(getattr(part, name), getattr(whole, name)[which], rtol=1e-4, atol=1e-5)


def test_parts_train_like_the_whole_batch_on_kept_states_of_the_base(tmp_path: Path, tokenizer, limit) -> None:
    settings = {"cache_base": True, "base_cache_dir": str(tmp_path / "cache")}
    whole = result(trainer_of(tmp_path / "whole", tokenizer, **settings))
    trainer = trainer_of(tmp_path / "parts", tokenizer, **settings, auto_micro_batch=True)
    rehearsed = []
    plan = trainer._estimate_memory
    trainer._estimate_memory = lambda batch, *rest: rehearsed.append(batch) or plan(batch, *rest)
    memory = limit(trainer, 3, "backward")
    assert_same(result(trainer), whole)
    assert "base_states" in rehearsed[0]
    assert memory.failures == 2  # 8 and 4 pairs; the cache needs no backward pass


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 4, 2)], ids=["one batch", "accumulated, the last not full"])
def test_parts_train_like_the_whole_batch(tmp_path: Path, tokenizer, most: int, shape: tuple[int, int, int]) -> None:
    total, size, accumulation = shape
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    whole = result(trainer_of(tmp_path / "whole", tokenizer, total, **settings))
    trainer = trainer_of(tmp_path / "parts", tokenizer, total, **settings, auto_micro_batch=True)
    trainer._micro_batches.most = most
    assert_same(result(trainer), whole)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError, lambda _: RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
    ids=["cuda", "cpu"],
)
def test_running_out_of_memory_costs_no_pair_and_counts_none_twice(
    tmp_path: Path, tokenizer, limit, where: str, error: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """8 pairs fail, 4 fail, 2 fit, in the second of two accumulated batches too, whose first has left gradients."""
    settings = {"gradient_accumulation_steps": 2, "num_train_epochs": 1}
    whole = result(trainer_of(tmp_path / "whole", tokenizer, 16, **settings))
    trainer = trainer_of(tmp_path / "parts", tokenizer, 16, **settings, auto_micro_batch=True)
    memory = limit(trainer, 8, where, error)
    step = trainer._micro_batches.run

    def tighter(*args):
        losses = step(*args)
        memory.rows = 2  # from the second batch on
        return losses

    trainer._micro_batches.run = tighter
    assert_same(result(trainer), whole)
    assert memory.failures == 2
    assert trainer._micro_batches.most == 2
    assert "8 pairs of up to" in caplog.text
    assert "at most 4 at a time" in caplog.text
    assert "at most 2 at a time" in caplog.text


def test_a_failed_backward_pass_has_left_gradients_to_undo(tmp_path: Path, tokenizer, limit) -> None:
    """Otherwise the test above would test nothing."""
    trainer = trainer_of(tmp_path, tokenizer)
    limit(trainer, 2, "backward")
    with pytest.raises(torch.OutOfMemoryError):
        trainer.model.train()(**trainer.data_collator(list(trainer.train_dataset))).loss.backward()
    left = [n for n, p in trainer.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert left
    assert all("layers.1" in name for name in left)


def test_one_pair_that_does_not_fit_is_a_clear_error(tmp_path: Path, tokenizer, limit) -> None:
    trainer = trainer_of(tmp_path, tokenizer, auto_micro_batch=True, max_length=40)
    limit(trainer, 0)
    longest = max(trainer.train_dataset["length"])
    with pytest.raises(BatchTooLargeError) as caught:
        trainer.train()
    text = str(caught.value)
    assert "a single pair out of a batch of 8 pairs does not fit into the memory of cpu" in text
    assert f"its longest pair has {longest} tokens" in text
    assert "lower max_length (now 40)" in text
    assert "activation_checkpointing" in text
    assert "auto_micro_batch" not in text.partition("hint:")[2]


def test_without_splitting_the_error_names_everything(
    tmp_path: Path, tokenizer, limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, tokenizer, gradient_accumulation_steps=3)
    monkeypatch.setattr(fitting, "estimate_memory", memory_estimate.estimate_memory)
    peaks = iter([2**30, 2**30 + 2**29, 2**30 + 2**29 + 2**28])
    monkeypatch.setattr(memory_estimate, "used_memory", lambda _device: 2**30)
    monkeypatch.setattr(memory_estimate, "available_memory", lambda _device: 7 * 2**28)

    def peak(_device: torch.device, work: Callable) -> int:
        work()
        return next(peaks)

    monkeypatch.setattr(memory_estimate, "peak_memory", peak)
    trainer._memory_planned = True
    next(peaks)
    limit(trainer, 4)
    with pytest.raises(BatchTooLargeError) as caught:
        trainer.train()
    text = str(caught.value)
    longest = max(trainer.train_dataset["length"])
    assert "a batch of 8 pairs does not fit into the memory of cpu" in text
    assert f"8 pairs of {longest} tokens take an estimated 2.25 GiB" in text
    assert "1.75 GiB are available" in text
    assert "0.25 GiB + 0.25 GiB a pair" in text
    # floor((0.8 · 1.75 − 0.25) / 0.25) = 4 pairs fit
    assert "per_device_train_batch_size from 8 to 4, with gradient_accumulation_steps 6" in text
    assert "auto_micro_batch" in text
    assert "max_length" in text
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert caught.value.__cause__.__traceback__ is None


def test_evaluation_names_its_own_batch_size(tmp_path: Path, tokenizer, limit) -> None:
    trainer = trainer_of(tmp_path, tokenizer, per_device_eval_batch_size=5)
    limit(trainer, 2)
    with pytest.raises(BatchTooLargeError, match="per_device_eval_batch_size from 5 to 1"):
        trainer.evaluate(trainer.train_dataset)


def test_evaluation_in_parts_gives_the_same_means(tmp_path: Path, tokenizer, limit) -> None:
    trainer = trainer_of(tmp_path, tokenizer, 7, per_device_eval_batch_size=5, auto_micro_batch=True)
    whole = trainer.evaluate(trainer.train_dataset)
    memory = limit(trainer, 2)
    parts = trainer.evaluate(trainer.train_dataset)
    assert memory.failures == 1
    for name, value in whole.items():
        if name.startswith(("eval_rewards", "eval_loss", "eval_chi2", "eval_logps")):
            assert parts[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("automatic", [False, True])
def test_other_errors_pass_untouched(tmp_path: Path, tokenizer, limit, automatic: bool) -> None:
    trainer = trainer_of(tmp_path, tokenizer, auto_micro_batch=automatic)
    memory = limit(trainer, 2, "backward", lambda _: RuntimeError("expected scalar type Half"))
    with pytest.raises(RuntimeError, match="expected scalar type Half") as caught:
        trainer.train()
    assert not isinstance(caught.value, BatchTooLargeError)
    assert memory.failures == 1


def test_transformers_own_search_for_a_batch_size_still_sees_its_error(tmp_path: Path, tokenizer, limit) -> None:
    trainer = trainer_of(tmp_path, tokenizer, auto_find_batch_size=True)
    limit(trainer, 4)
    trainer.train()
    assert trainer.state.train_batch_size <= 4
    with pytest.raises(ConfigError, match="auto_find_batch_size"):
        arguments(tmp_path, auto_find_batch_size=True, auto_micro_batch=True)


def test_several_processes_are_refused(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator, DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.MULTI_GPU)
    with pytest.raises(ConfigError, match="single process, not under MULTI_GPU"):
        trainer_of(tmp_path, tokenizer, auto_micro_batch=True)


def measured(monkeypatch: pytest.MonkeyPatch, available: int) -> list[int]:
    """Let a pair take 100 bytes beside 50 fixed ones; returns the sizes that are rehearsed."""
    seen: list[int] = []
    monkeypatch.setattr(fitting, "estimate_memory", memory_estimate.estimate_memory)
    monkeypatch.setattr(memory_estimate, "used_memory", lambda _device: 1000)
    monkeypatch.setattr(memory_estimate, "available_memory", lambda _device: available)

    def peak(_device: torch.device, work: Callable) -> int:
        work()
        return 1000 + 50 + 100 * seen[-1]

    original = QAdapterTrainer._rehearse

    def rehearse(self: QAdapterTrainer, model: torch.nn.Module, batch: dict[str, Tensor]) -> None:
        seen.append(len(batch["terminated"]) // 2)
        assert int(pair_lengths(batch).max()) == max(self.train_dataset["length"])
        original(self, model, batch)

    monkeypatch.setattr(memory_estimate, "peak_memory", peak)
    monkeypatch.setattr(QAdapterTrainer, "_rehearse", rehearse)
    return seen


@pytest.mark.parametrize(
    ("available", "most", "rehearsed"),
    [(10**6, 8, [1]), (500, 3, [1, 2]), (438, 3, [1, 2]), (437, 2, [1, 2]), (374, 1, [1]), (10, 1, [1])],
)
def test_the_parts_on_a_cpu_follow_the_memory_that_is_there(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, available: int, most: int, rehearsed: list[int]
) -> None:
    """Of 0.8 · available: 50 + 3 · 100 fit into 438 bytes and not into 437."""
    seen = measured(monkeypatch, available)
    trainer = trainer_of(tmp_path, tokenizer, auto_micro_batch=True)
    trainer.train()
    assert trainer._micro_batches.most == most
    assert seen == rehearsed


def test_measuring_leaves_no_trace(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """Bit for bit the same training and log, with LoRA dropout, whether or not memory was measured before."""
    settings = {"lora_dropout": 0.3, "num_train_epochs": 2, "per_device_train_batch_size": 4}

    def run(folder: Path) -> tuple[list[dict], dict[str, Tensor]]:
        args = arguments(folder, **settings)
        trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer)
        lines, state = result(trainer)
        return [{k: v for k, v in line.items() if "runtime" not in k and "second" not in k} for line in lines], state

    without = run(tmp_path / "without")
    seen = measured(monkeypatch, 300)
    with caplog.at_level(logging.WARNING):
        after = run(tmp_path / "with")
    assert seen == [1, 2][: len(seen)]
    assert seen
    assert after[0] == without[0]
    for name, value in without[1].items():
        assert torch.equal(value, after[1][name]), name
    assert "the longest batches may not fit into memory" in caplog.text


def test_a_rehearsal_touches_no_gradient(tmp_path: Path, tokenizer) -> None:
    trainer = trainer_of(tmp_path, tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    generator = torch.get_rng_state()
    trainer._rehearse(trainer.model, batch)
    assert all(p.grad is None for p in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not trainer._metric_sums
    trainer.model(**batch).loss.backward()
    before = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer._rehearse(trainer.model, batch)
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, before[name])


def test_activation_checkpointing_runs_out_of_memory_in_its_second_forward_pass(
    tmp_path: Path, tokenizer, limit
) -> None:
    whole = result(trainer_of(tmp_path / "whole", tokenizer, activation_checkpointing=True))
    trainer = trainer_of(tmp_path / "parts", tokenizer, activation_checkpointing=True, auto_micro_batch=True)
    memory = limit(trainer, 4, "backward")
    assert_same(result(trainer), whole)
    assert memory.failures == 1


def test_the_numbers_of_an_estimate() -> None:
    estimate = MemoryEstimate(2**30, 2**29, 4 * 2**30, 700, torch.device("cpu"))
    assert estimate.needed(4) == 3 * 2**30
    assert estimate.largest_batch(16) == 4  # 1 + 4 · 0.5 ≤ 3.2 < 1 + 5 · 0.5
    assert estimate.largest_batch(2) == 2

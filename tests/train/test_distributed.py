"""Two gloo processes against one: the same steps, the same artifact, checkpoints that either can go on from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import SCENARIOS, train
from safetensors.torch import load_file

from qadapter.errors import ConfigError, QAdapterError
from qadapter.train import QAdapterTrainingArguments, base_cache, processes
from qadapter.train.counted import COUNTED, counted_pairs, mark_counted
from qadapter.train.sampler import LengthGroupedSampler

WORKER = Path(__file__).parents[1] / "distributed_worker.py"
ENGINES = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """What two processes left: a folder for each engine, in it one for each scenario."""
    out = tmp_path_factory.mktemp("two-processes")
    tokenizer.save_pretrained(out / "tokenizer")
    command = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), str(WORKER), str(out)]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-6000:]
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> dict[str, Path]:
    """Scenario → what one process left: the same steps, not divided."""
    out = tmp_path_factory.mktemp("one-process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_cache, "CHUNK_STATES", 20)
        for name, arguments in SCENARIOS.items():
            if name != "dropout":  # its masks are drawn by each process
                whole = {**arguments, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 4}
                train(out / name, tokenizer, processes=1, **whole)
    return {path.name: path for path in out.iterdir()}


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same_trajectory(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    """Every line of the log, and the artifact."""
    pairs = list(zip(log_of(ours), log_of(theirs), strict=True))
    assert len(pairs) == 14  # twelve steps, the summary, the evaluation
    for mine, other in pairs:
        assert mine.keys() == other.keys()
        for name in mine.keys() - {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}:
            if not name.endswith(("_runtime", "_per_second")):
                assert mine[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), (name, mine["step"])
    same_weights(ours, theirs, tolerance)


def same_weights(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    mine, other = weights_of(ours), weights_of(theirs)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "dropout"])
def test_two_processes_do_what_one_does(two: Path, one: dict[str, Path], engine: str, scenario: str) -> None:
    same_trajectory(two / engine / scenario, one[scenario])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_base_cache_built_by_two_is_that_of_one(two: Path, one: dict[str, Path], engine: str) -> None:
    (ours,), (theirs,) = ((folder / "base-states").iterdir() for folder in (two / engine / "cached", one["cached"]))
    assert ours.name == theirs.name
    records = [
        torch.frombuffer(bytearray((f / "states.bin").read_bytes()), dtype=torch.float32) for f in (ours, theirs)
    ]
    torch.testing.assert_close(records[0], records[1], rtol=1e-5, atol=1e-5)
    lines = [json.loads(line)["chunk"] for line in (ours / "chunks.jsonl").read_text().splitlines() if line]
    assert sorted(lines) == list(range(len(lines)))
    assert len(lines) > 3


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_with_as_many_processes_is_bit_for_bit(two: Path, engine: str) -> None:
    """With dropout, from the middle of the second epoch."""
    same_weights(two / engine / "resumed", two / engine / "dropout", tolerance=0)


def test_a_checkpoint_goes_on_under_another_engine(two: Path, one: dict[str, Path]) -> None:
    same_weights(two / "fsdp2" / "from-ddp", one["plain"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_goes_on_with_another_number_of_processes(
    two: Path, one: dict[str, Path], engine: str, tmp_path: Path, tokenizer
) -> None:
    checkpoint = two / engine / "plain" / "checkpoint-9"
    train(tmp_path, tokenizer, processes=1, resume=checkpoint)
    same_weights(tmp_path, one["plain"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_holds_nothing_frozen(two: Path, engine: str) -> None:
    checkpoint = two / engine / "plain" / "checkpoint-12"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"adapter", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state_0.pth"} <= names
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    sizes = sorted(value.numel() for value in weights_of(checkpoint).values())
    assert sorted(entry["exp_avg"].numel() for entry in state.values()) == sizes
    assert not any("model" in name for name in names)


def test_the_order_does_not_depend_on_how_a_step_is_divided(tmp_path: Path) -> None:
    """What the data loaders of accelerate hand out, for one process and for each of two, four or eight."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    lengths = torch.randint(5, 500, (103,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=16, seed=7)
    whole = [set(batch) for batch in BatchSampler(sampler, 16, drop_last=False)]
    for world, accumulation in ((2, 1), (2, 4), (4, 2), (8, 1)):
        micro = 16 // world // accumulation
        batches = BatchSampler(sampler, micro, drop_last=False)
        shards = [list(BatchSamplerShard(batches, world, rank)) for rank in range(world)]
        assert len({len(shard) for shard in shards}) == 1
        for step, expected in enumerate(whole):
            at = slice(step * accumulation, (step + 1) * accumulation)
            seen = [index for shard in shards for batch in shard[at] for index in batch]
            assert set(seen) >= expected if step == len(whole) - 1 else sorted(seen) == sorted(expected)


def test_pairs_that_fill_up_the_last_batch_do_not_count() -> None:
    batch = {"terminated": torch.ones(6, dtype=torch.bool)}
    assert COUNTED not in mark_counted(batch, process=1, left=0)
    assert COUNTED not in mark_counted(batch, process=0, left=4)
    marked = mark_counted(batch, process=1, left=4)
    assert marked[COUNTED].tolist() == [True, False, False] * 2
    assert [counted_pairs(one) for one in (batch, marked, mark_counted(batch, process=2, left=4))] == [3, 1, 0]


def test_the_size_of_a_step_gives_the_accumulation(tmp_path: Path) -> None:
    def arguments(**kw) -> QAdapterTrainingArguments:
        return QAdapterTrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4, **kw)

    assert arguments(gradient_accumulation_steps=3).pairs_per_step == 12
    assert arguments(pairs_per_step=16).gradient_accumulation_steps == 4
    assert arguments(pairs_per_step=16, gradient_accumulation_steps=4).pairs_per_step == 16
    with pytest.raises(ConfigError, match=r"pairs_per_step 6 cannot be divided among 1 process"):
        arguments(pairs_per_step=6)
    with pytest.raises(ConfigError, match=r"needs gradient_accumulation_steps 4, got 2"):
        arguments(pairs_per_step=16, gradient_accumulation_steps=2)


def test_an_error_of_the_main_process_reaches_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list] = []
    monkeypatch.setattr(processes, "broadcast_object_list", lambda outcome: sent.append(list(outcome)))

    def refused() -> None:
        raise ConfigError("no room", hint="make some")

    with pytest.raises(ConfigError, match="no room"):
        processes.from_main_process(refused)
    assert sent == [[None, "no room\nhint: make some"]]

    class Other:
        is_main_process = False

    monkeypatch.setattr(processes, "PartialState", Other)
    monkeypatch.setattr(processes, "broadcast_object_list", lambda outcome: outcome.__setitem__(slice(None), sent[0]))
    with pytest.raises(QAdapterError, match="no room\nhint: make some"):
        processes.from_main_process(lambda: pytest.fail("only the main process works"))

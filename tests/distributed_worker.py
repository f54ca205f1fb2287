"""Trains tiny models in one of several gloo processes; `test_distributed.py` starts it and compares what it leaves.

torchrun --nproc-per-node 2 distributed_worker.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import Dataset

sys.path.insert(0, str(Path(__file__).parent))

from conftest import make_base

from qadapter import QAdapterForCausalLM, QAdapterTrainer, QAdapterTrainingArguments
from qadapter.data import Anchor
from qadapter.train import base_cache

STEPS = {"max_steps": 12, "save_strategy": "steps", "save_steps": 3}
"""Two epochs of 23 pairs in steps of 4: the last step of an epoch has 3 pairs, too few for two full shares."""
ANCHORS = [Anchor([3 + n, 4], ([5, 6, 2], [7 + n, 2]), (True, True)) for n in range(4)]
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
    "tied": {"family": "qwen3"},
    "cached": {"cache_base": True, "base_cache_dir": "base-states", "alpha_0": 0.2},
    # SGD: the anchors' weight makes gradients large, and AdamW a full step of the rounding where another is zero.
    "anchored": {"anchors": ANCHORS, "train_sampling_strategy": "random", "optim": "sgd", "learning_rate": 0.01},
    # Nothing fills up the last step of an epoch: its three pairs are left out.
    "last dropped": {"dataloader_drop_last": True},
    "dropout": {"lora_dropout": 0.3},
}
"""Arguments of a step of 4 pairs, which two processes divide between them."""


def words(number: int, count: int) -> str:
    return " ".join(f"w{chr(97 + (7 * number + 3 * i) % 26)}" for i in range(count))


def pairs(count: int = 23) -> Dataset:
    """Pairs of odd lengths in the words of the tests' tokenizer."""
    rows = [
        {
            "prompt": [{"role": "user", "content": words(n, 1 + n % 5)}],
            "chosen": [{"role": "assistant", "content": words(n + 1, 1 + n % 7) + " va"}],
            "rejected": [{"role": "assistant", "content": words(n + 2, 1 + n % 4) + " vb"}],
        }
        for n in range(count)
    ]
    return Dataset.from_list(rows)


def train(
    folder: Path, tokenizer: Any, *, processes: int, family: str = "llama", anchors: list[Anchor] | None = None,
    resume: Path | None = None, **overrides: Any,
) -> QAdapterTrainer:  # fmt: skip
    """Train in `folder`, leave the artifact there and the metrics of an evaluation in its last log line."""
    given = {
        **{"per_device_train_batch_size": 4 // processes, "learning_rate": 1e-2, "logging_steps": 1},
        **{"alpha_0": 0.3, "alpha_tilde": 0.3, "disable_tqdm": True, "use_cpu": True, "max_length": 14},
        **STEPS,
        **overrides,
    }
    if "base_cache_dir" in given:
        given["base_cache_dir"] = str(folder / given["base_cache_dir"])
    args = QAdapterTrainingArguments(output_dir=str(folder), **given)
    data = pairs()
    trainer = QAdapterTrainer(
        make_base(family), args, None, data, data.select(range(7)), tokenizer, anchors=anchors or []
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.evaluate()
    trainer.save_model()
    return trainer


def use_engine(engine: str) -> None:
    """What `accelerate launch` puts into the environment for the configs in recipes/accelerate."""
    os.environ["ACCELERATE_USE_FSDP"] = "true" if engine == "fsdp2" else "false"
    os.environ["FSDP_VERSION"] = "2"
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def allow_fsdp_on_cpu() -> None:
    """accelerate engages FSDP on accelerators only, and trains by DDP elsewhere without a word."""
    plain = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = init


def main(out: Path) -> None:
    from transformers import AutoTokenizer

    allow_fsdp_on_cpu()
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    base_cache.CHUNK_STATES = 20  # several chunks, of different numbers of batches
    for engine in ("ddp", "fsdp2"):
        use_engine(engine)
        for name, arguments in SCENARIOS.items():
            trainer = train(out / engine / name, tokenizer, processes=2, **arguments)
            sharded = type(trainer.model).__name__.startswith("FSDP")
            assert sharded == (engine == "fsdp2"), f"{engine} trained {type(trainer.model).__name__}"
            assert isinstance(trainer.model, QAdapterForCausalLM)
        again = {"resume": out / engine / "dropout" / "checkpoint-9", **SCENARIOS["dropout"]}
        train(out / engine / "resumed", tokenizer, processes=2, **again)
    # A checkpoint of one engine under the other.
    train(out / "fsdp2" / "from-ddp", tokenizer, processes=2, resume=out / "ddp" / "plain" / "checkpoint-9")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

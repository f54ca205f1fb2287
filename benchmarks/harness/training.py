"""Training: Q-Adapter, TRL's DPOTrainer and the dense objective on the same batches, one optimizer step per turn."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback

from .dense import dense_loss
from .worker import Gate
from .workload import Workload, batches_of_pairs, load_model, load_tokenizer

LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def train_qadapter(gate: Gate, *, device: str, workload: Workload, steps: int, **arguments: Any) -> None:
    """`QAdapterTrainer` with its defaults and `arguments`, on the batches in the order that all subjects get.

    Anchors would be rows that the other subjects do not have.
    """
    from qadapter.train import QAdapterTrainer, QAdapterTrainingArguments

    model, tokenizer = load_model(workload, device), load_tokenizer(workload)
    pairs, _ = batches_of_pairs(workload, tokenizer, steps)
    with tempfile.TemporaryDirectory() as folder:
        args = QAdapterTrainingArguments(
            max_length=None, anchors=0, base_cache_dir=folder, train_sampling_strategy="sequential",
            **_common(folder, workload, steps, device), **arguments,
        )  # fmt: skip
        _step_by_step(QAdapterTrainer(model, args, None, pairs, processing_class=tokenizer), gate)


def train_trl(gate: Gate, *, device: str, workload: Workload, steps: int, **arguments: Any) -> None:
    """`trl.DPOTrainer` in bfloat16 with its own fused LM head; the same LoRA, base and batches."""
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = load_model(workload, device), load_tokenizer(workload)
    pairs, _ = batches_of_pairs(workload, tokenizer, steps)
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            max_length=None, bf16=True, learning_rate=1e-4, report_to="none",
            train_sampling_strategy="sequential", **_common(folder, workload, steps, device), **arguments,
        )  # fmt: skip
        trainer = DPOTrainer(model, args=args, train_dataset=pairs, processing_class=tokenizer, peft_config=_lora())
        _step_by_step(trainer, gate)


def train_dense(gate: Gate, *, device: str, workload: Workload, steps: int) -> None:
    """What the official code computes, done as it does it: see `dense.py`."""
    from qadapter.data import PreferenceCollator
    from qadapter.train.dataset import tokenize_dataset

    tokenizer = load_tokenizer(workload)
    model = get_peft_model(load_model(workload, device), _lora())
    texts, _ = batches_of_pairs(workload, tokenizer, steps)
    rows = tokenize_dataset(texts, tokenizer, max_length=None)
    collate = PreferenceCollator(tokenizer.pad_token_id or 0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4)
    model.train()
    gate.ready()
    for start in range(0, len(rows), workload.batch):
        if not gate.wait():
            return
        batch = collate([rows[i] for i in range(start, start + workload.batch)])
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = dense_loss(model, **{name: value.to(device) for name, value in batch.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        gate.report()


class _StepByStep(TrainerCallback):
    """Turns a training run into turns: from the end of one step to the end of the next."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.gate.ready()
        control.should_training_stop = not self.gate.wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.gate.report()
        if state.global_step < state.max_steps and not self.gate.wait():
            control.should_training_stop = True


def _step_by_step(trainer: Trainer, gate: Gate) -> None:
    trainer.add_callback(_StepByStep(gate))
    trainer.train()


def _lora() -> LoraConfig:
    return LoraConfig(**LORA)


def _common(folder: str, workload: Workload, steps: int, device: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": workload.batch,
        "max_steps": steps,
        "save_strategy": "no",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "disable_tqdm": True,
    }

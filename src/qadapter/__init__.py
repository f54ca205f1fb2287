"""Q-Adapter: customize a frozen, pre-trained LLM to a new preference without making it forget what it could do.

Read the package in this order: `data` (preference pairs) → `core` (the paper) → `model` (base + adapter) →
`train` → `evaluate` → `cli`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data import load_preference_dataset
    from .model import QAdapterForCausalLM, QConstants, load_tokenizer
    from .train import QAdapterTrainer, QAdapterTrainingArguments

# Resolved on first use, so that `import qadapter` (and the command line's --help) does not import torch.
_HOME = {
    "QAdapterForCausalLM": "model",
    "QConstants": "model",
    "load_tokenizer": "model",
    "load_preference_dataset": "data",
    "QAdapterTrainer": "train",
    "QAdapterTrainingArguments": "train",
}
__all__ = [
    "QAdapterForCausalLM",
    "QAdapterTrainer",
    "QAdapterTrainingArguments",
    "QConstants",
    "load_preference_dataset",
    "load_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

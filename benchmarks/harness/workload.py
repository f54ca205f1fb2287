"""What is measured on: a model and preference pairs, from files, or made in memory where nothing can be fetched."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from qadapter.data import load_preference_dataset
from qadapter.model import load_base, load_base_tokenizer
from qadapter.train.dataset import tokenize_dataset
from qadapter.train.sampler import LengthGroupedSampler


@dataclass(frozen=True)
class Workload:
    """Which model, which pairs. `pairs` None: random words, with lengths like those of chat pairs."""

    model: str | dict[str, int]
    """Name or folder, or the sizes of a Llama with random weights (speed does not depend on their values)."""
    pairs: str | None
    max_row: int
    """Longest prompt + response, tokens; longer pairs are left out of the measurement."""
    batch: int
    """Pairs per optimizer step."""
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """For the result file."""
        return {**asdict(self), "pairs": self.pairs and Path(self.pairs).name}


def load_model(workload: Workload, device: str) -> PreTrainedModel:
    """The base in bfloat16."""
    if isinstance(workload.model, str):
        return load_base(workload.model, dtype=torch.bfloat16).to(device)
    torch.manual_seed(workload.seed)
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**workload.model, dtype=torch.bfloat16)).to(torch.bfloat16)


def load_tokenizer(workload: Workload) -> PreTrainedTokenizerBase:
    """The model's, or one whose words are numbers."""
    if isinstance(workload.model, str):
        return load_base_tokenizer(workload.model)
    words = {f"w{index}": index for index in range(2, workload.model["vocab_size"])}
    model = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, **words}, unk_token="<pad>"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<eos>")


def batches_of_pairs(workload: Workload, tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[Dataset, list[dict]]:
    """`count` batches, one after the other, in the order of Q-Adapter's sampler.

    Returns:
        The pairs as text, and the facts of each batch: pairs, unique tokens (a pair's prompt counted once), tokens
        (twice), states (response tokens), and padding as a share of the packed rows.
    """
    texts = _random_pairs(workload) if workload.pairs is None else load_preference_dataset(workload.pairs)
    rows = tokenize_dataset(texts, tokenizer, max_length=None)
    longest = [len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows]
    fitting = [index for index, tokens in enumerate(longest) if tokens <= workload.max_row]
    lengths = rows["length"]
    order = list(LengthGroupedSampler([lengths[i] for i in fitting], workload.batch, workload.seed))
    chosen = [fitting[i] for i in order[: count * workload.batch]]
    if len(chosen) < count * workload.batch:
        raise SystemExit(f"{workload.pairs}: {len(fitting)} pairs of at most {workload.max_row} tokens are too few.")
    facts = []
    for start in range(0, len(chosen), workload.batch):
        part = [rows[i] for i in chosen[start : start + workload.batch]]
        states = sum(len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in part)
        unique = sum(r["length"] for r in part)
        facts.append(
            {
                "pairs": len(part),
                "unique_tokens": unique,
                "tokens": unique + sum(len(r["prompt_ids"]) for r in part),
                "states": states,
                "padding": 1 - unique / (len(part) * max(r["length"] for r in part)),
            }
        )
    return texts.select(chosen).select_columns(["prompt", "chosen", "rejected"]), facts


def padding_of_an_epoch(workload: Workload, tokenizer: PreTrainedTokenizerBase) -> float:
    """Padding as a share of the tokens of all packed rows, over one epoch of all pairs."""
    texts = _random_pairs(workload) if workload.pairs is None else load_preference_dataset(workload.pairs)
    lengths = tokenize_dataset(texts, tokenizer, max_length=None)["length"]
    order = list(LengthGroupedSampler(lengths, workload.batch, workload.seed))
    rows = [
        [lengths[i] for i in order[start : start + workload.batch]] for start in range(0, len(order), workload.batch)
    ]
    return 1 - sum(lengths) / sum(len(row) * max(row) for row in rows)


def _random_pairs(workload: Workload, count: int = 1024) -> Dataset:
    """Text pairs of random words: prompts of a quarter to half a row, responses up to the rest."""
    draw, rows = random.Random(workload.seed), []
    assert isinstance(workload.model, dict)
    for _ in range(count):
        prompt = draw.randint(workload.max_row // 8, workload.max_row // 2)
        sizes = (prompt, *(draw.randint(workload.max_row // 16, workload.max_row // 2 - 2) for _ in range(2)))
        text = [" ".join(f"w{draw.randrange(2, workload.model['vocab_size'])}" for _ in range(n)) for n in sizes]
        rows.append({"prompt": text[0], "chosen": " " + text[1], "rejected": " " + text[2]})
    return Dataset.from_list(rows)

"""A tiny random chat model on disk, pairs that it can learn, and one run of `qadapter train` on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qadapter.cli.main import main

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANIMALS = ["cat", "dog", "fox", "owl", "hen", "cow", "pig", "bee", "ant", "elk"]
FAST = [
    *("--dtype", "float32", "--max-length", "64", "--per-device-train-batch-size", "4", "--use-cpu"),
    *("--max-steps", "6", "--save-steps", "2", "--logging-steps", "2", "--lora-dropout", "0.1", "--seed", "3"),
    *("--anchors", "0"),
]
"""Six steps, a checkpoint every two; dropout, so that resuming must restore the random state too."""


def make_pairs(count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Pairs on three prompts per animal: `yes` is chosen over `no`."""
    rows = []
    for number in range(count):
        animal, other = ANIMALS[number % 10], ANIMALS[(number // 10 + 3) % 10]
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"Is the {animal} like the {other}?"}],
                "chosen": [{"role": "assistant", "content": f"yes, the {animal} is"}],
                "rejected": [{"role": "assistant", "content": f"no, the {animal} is not like it"}],
            }
        )
    return rows


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [message["content"] for row in make_pairs(24) for messages in row.values() for message in messages]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*texts, "user assistant system\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two layers and its tokenizer; 512 positions."""
    folder = tmp_path_factory.mktemp("tiny-base")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
            initializer_range=0.3,  # large, so that distant tokens matter to the answer
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "train.jsonl", make_pairs(24))


@pytest.fixture(scope="session")
def trained(tiny_base: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output_dir of a finished run. Copy it before changing anything in it."""
    output = tmp_path_factory.mktemp("run") / "out"
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--output-dir", str(output)]
    assert main(["train", *flags, *FAST, "--eval-split", "6", "--save-total-limit", "10"]) == 0
    return output

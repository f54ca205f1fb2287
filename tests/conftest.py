"""Shared fixtures: tiny random models of the families that the project supports, and a batch of pairs for them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For the processes that tests start; see set_num_threads below.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers
from peft import LoraConfig
from transformers import PreTrainedModel

from qadapter.model import QAdapterForCausalLM, QConstants

# The tiny models' products are too small to share between threads; two threads would only wait for each other.
torch.set_num_threads(1)

VOCABULARY = 61
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "llama": transformers.LlamaConfig(**SMALL, **HEADS, **IDS),
    "qwen3": transformers.Qwen3Config(**SMALL, **HEADS, **IDS, tie_word_embeddings=True),
    "mistral": transformers.MistralConfig(**SMALL, **HEADS, **IDS, sliding_window=5),
    "gemma2": transformers.Gemma2Config(
        **SMALL, **HEADS, **IDS, sliding_window=5, query_pre_attn_scalar=8, final_logit_softcapping=2.0
    ),
    "phi": transformers.PhiConfig(**SMALL, num_attention_heads=4, num_key_value_heads=2, **IDS),
    "gpt2": transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, **IDS),
}
PAPER = QConstants("logits", alpha_0=0.01, alpha_tilde=1.0, gamma=1.0, chi2_coef=0.1)
RESIDUAL = QConstants("residual", alpha_0=0.3, alpha_tilde=0.3, gamma=1.0, chi2_coef=0.1)


@pytest.fixture
def full_device() -> Path:
    """A device that every write finds full."""
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("this system has no /dev/full, on which a write finds a full disk (Linux has it)")
    return device


@pytest.fixture
def on_a_full_disk(full_device: Path) -> Callable[[Path], None]:
    """Let what is written beside a file, before it takes its place, find no room."""

    def put(path: Path) -> None:
        path.with_name(f".part-{os.getpid()}-{path.name}").symlink_to(full_device)

    return put


def make_base(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A tiny random causal LM; the weights are large enough that its policy is far from uniform."""
    torch.manual_seed(seed)
    base = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family]))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return base.eval()


def model_from_config(
    config: transformers.PretrainedConfig, constants: QConstants = RESIDUAL, lora: LoraConfig | None = None
) -> QAdapterForCausalLM:
    """A tiny random model of any family, with a random adapter."""
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return randomize_adapter(QAdapterForCausalLM(base.eval(), constants, lora)).eval()


def randomize_adapter(model: QAdapterForCausalLM, seed: int = 1, std: float = 0.3) -> QAdapterForCausalLM:
    """Give the adapter weights as after training; a fresh LoRA is zero and would hide most mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=std)
    return model


def make_model(
    family: str = "llama", constants: QConstants = PAPER, lora: LoraConfig | None = None, seed: int = 0
) -> QAdapterForCausalLM:
    """A tiny model with a trained-looking adapter, in eval mode."""
    return randomize_adapter(QAdapterForCausalLM(make_base(family, seed), constants, lora)).eval()


def two_logits(model: QAdapterForCausalLM, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z₁ and z₀ by two separate passes of the base's own forward through PEFT's own switch: the oracle's inputs."""
    model.row_router.remove()
    try:
        with torch.no_grad():
            z1 = model.base(**inputs, use_cache=False).logits
            with model.peft_model.disable_adapter():
                z0 = model.base(**inputs, use_cache=False).logits
    finally:
        model.row_router.__init__(model.base)
    return z1, z0


def make_batch(pairs: int = 3, seed: int = 0, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Random pairs of odd lengths; the first pair's chosen response is cut, the rest ends by itself."""
    from qadapter.data import PreferenceCollator

    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    rows = [
        {
            "prompt_ids": ids(3 + 2 * i),
            "chosen_ids": ids(5 + i) + ([2] if i else []),
            "rejected_ids": [*ids(2 + 3 * i), 2],
            "chosen_terminated": i > 0,
            "rejected_terminated": True,
        }
        for i in range(pairs)
    ]
    return {name: value.to(device) for name, value in PreferenceCollator(pad_token_id=0)(rows).items()}


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return make_batch()


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word tokenizer of 61 entries whose post-processor adds a BOS, and a chat template that writes one too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "user", "assistant", "system"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = special + [f"w{a}" for a in letters] + [f"v{a}" for a in letters]
    vocabulary = {word: index for index, word in enumerate(words[:VOCABULARY])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped

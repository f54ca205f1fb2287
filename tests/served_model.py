"""What the tests of the server share: a tiny chat model whose tokens are bytes, two adapters, ways to drive them."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import randomize_adapter
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qadapter.model import QAdapterForCausalLM, QConstants
from qadapter.serve.engine import Delta, Engine, EngineLimits, Event, Failed, Request

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAPER = QConstants("logits", alpha_0=0.5, alpha_tilde=1.0)
RESIDUAL = QConstants("residual", alpha_0=0.3, alpha_tilde=0.3)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that characters take several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=TEMPLATE,
    )


def save_tiny_artifacts(folder: Path) -> None:
    """A base in `base`, and two adapters of it with constants, layers and ranks of their own in `one` and `two`."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            bos_token_id=1, eos_token_id=2, initializer_range=0.25,
        )
    )  # fmt: skip
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for seed, (name, constants, lora) in enumerate(
        [
            ("one", PAPER, LoraConfig(r=4, target_modules="all-linear")),
            ("two", RESIDUAL, LoraConfig(r=3, target_modules=["q_proj", "v_proj", "down_proj"])),
        ]
    ):
        fresh = LlamaForCausalLM.from_pretrained(folder / "base")
        model = randomize_adapter(QAdapterForCausalLM(fresh, constants, lora), seed=seed + 1)
        model.save_pretrained(folder / name, tokenizer=tokenizer)


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """An engine that answers inside the block."""
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


class Listener:
    """Collects what an engine says about requests."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, Event]] = queue.Queue()
        self.deltas: dict[tuple[int, int], list[Delta]] = defaultdict(list)
        self.failed: dict[int, str] = {}

    def hears(self, number: int, request: Request) -> Request:
        """The request, listened to."""
        return replace(request, emit=lambda event: self.events.put((number, event)))

    def wait(self, choices: int, seconds: float = 30.0) -> None:
        """Until so many choices have ended; a failed request counts as one."""
        until = time.monotonic() + seconds
        while choices:
            number, event = self.events.get(timeout=max(until - time.monotonic(), 0.01))
            if isinstance(event, Failed):
                self.failed[number] = event.reason
                choices -= 1
            else:
                self.deltas[number, event.choice].append(event)
                choices -= event.finish is not None

    def text(self, number: int, choice: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas[number, choice])

    def tokens(self, number: int, choice: int = 0) -> list[int]:
        """Needs log-probabilities to have been asked for; without the token that ended the answer."""
        return [report.token for delta in self.deltas[number, choice] for report in delta.tokens]


def answers(engine: Engine, requests: Sequence[Request], pause: float = 0.0) -> Listener:
    """Submit requests one after the other and wait for all."""
    listener = Listener()
    for number, request in enumerate(requests):
        engine.submit([listener.hears(number, request)])
        time.sleep(pause)
    listener.wait(sum(request.choices for request in requests))
    return listener


@contextmanager
def serving(app: Any, engine: Engine, grace: float = 5.0) -> Iterator[tuple[str, Any]]:
    """The app on a free port of loopback: its URL and the server."""
    from qadapter.serve.api.server import GracefulServer, bind

    with bind("127.0.0.1", 0) as socket:
        server = GracefulServer(app, engine, grace)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}", server
        finally:
            server.begin_shutdown()
            thread.join(timeout=20)
            assert not thread.is_alive(), "the server did not end"


def make_engine(served: Any, *, endless: bool = False, **limits: int) -> Engine:
    """A fresh engine on a served model; `endless`: no token ends an answer."""
    from qadapter.generate import stop_ids

    ends = [] if endless else stop_ids(served.model, served.tokenizer)
    return Engine(served.model, served.tokenizer, ends, EngineLimits(**{"prefill_chunk": 16, **limits}))

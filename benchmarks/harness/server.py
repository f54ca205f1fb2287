"""`qadapter serve` in a process of its own, for the scripts that put load on it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def make_adapter(folder: Path, dtype: str) -> None:
    """A random adapter of the default model: the speed does not depend on what was learned."""
    import torch

    from qadapter.model import DEFAULT_MODEL, QAdapterForCausalLM, QConstants, load_base, load_base_tokenizer

    model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype=dtype), QConstants())
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.002)
    model.save_pretrained(folder, tokenizer=load_base_tokenizer(DEFAULT_MODEL))


@contextmanager
def running_server(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """URL and process id of a server.

    Args:
        words: what follows `qadapter serve`.
    """
    command = [sys.executable, "-m", "qadapter", "serve", *words, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        url = None
        for line in server.stderr:
            print(line, end="", file=sys.stderr)
            if line.startswith("http://"):
                url = line.split("/ ")[0]
                break
        if url is None:
            raise SystemExit("the server did not start")
        # Read on, or it would wait for us once the pipe is full.
        threading.Thread(target=_show, args=(server.stderr,), daemon=True).start()
        while not _answers(url):
            time.sleep(0.1)
        yield url, server.pid
    finally:
        server.terminate()
        server.wait(60)


def metrics(url: str) -> dict[str, float]:
    """The server's counters by name and labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        print(line, end="", file=sys.stderr)

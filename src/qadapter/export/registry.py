"""The targets by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .arguments import (
    DistilledArguments,
    GgufArguments,
    HubArguments,
    MergedArguments,
    PeftArguments,
    VllmArguments,
)


class Export(Protocol):
    """The function `export` of a target's file.

    Args:
        source: the artifact.
        args: an instance of the target's dataclass of arguments.
        output: the folder to write; for the hub the repository.
        overwrite: whether to replace what is there.

    Raises:
        QAdapterError: the export cannot be made or would be another policy than asked for; nothing is left behind.
    """

    def __call__(self, source: Any, args: Any, output: str, *, overwrite: bool) -> None: ...


@dataclass(frozen=True)
class Target:
    """A kind of export."""

    module: str
    """The file of this package that has its `export`."""
    meaning: str
    """One line for the help."""
    arguments: type
    """A dataclass whose fields are the target's flags, each with metadata `help`."""
    loads_base: bool = True
    """Whether the flags of loading the base have a meaning."""
    may_quantize: Callable[[Any], bool] = lambda args: False
    """Whether the base may be held in 8 or 4 bits: with these arguments, its weights are no part of the export."""

    @property
    def export(self) -> Export:
        """The function that makes it; the import may take seconds."""
        export: Export = importlib.import_module(f".{self.module}", __package__).export
        return export


TARGETS: dict[str, Target] = {
    "peft": Target(
        "peft", "a plain LoRA, for any engine that reads PEFT's files", PeftArguments, may_quantize=lambda args: True
    ),
    "merged": Target("merged", "a plain model: the LoRA folded into the base's weights", MergedArguments),
    "distilled": Target(
        "distilled",
        "a plain LoRA trained to match the mixed policy at any strength",
        DistilledArguments,
        may_quantize=lambda args: True,
    ),
    "gguf": Target(
        "gguf",
        "a GGUF file for llama.cpp, by llama.cpp's own converter",
        GgufArguments,
        may_quantize=lambda args: args.form == "lora",
    ),
    "vllm": Target("vllm", "both policies, mixed exactly, for vLLM with our plug-in (docs/vllm.md)", VllmArguments),
    "hub": Target("hub", "the artifact and its card, pushed to the Hugging Face hub", HubArguments, loads_base=False),
}

"""The artifact that is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..model import QAdapterForCausalLM, QConstants
from ..model.artifact_folder import local_folder, read_config, read_constants
from ..model.loading import PACKAGE_COPY_SHA256

Loaded = tuple[QAdapterForCausalLM, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Source:
    """An artifact; its base is loaded when a target asks for it."""

    directory: Path
    """The folder, on this machine."""
    config: dict[str, Any]
    """The content of `qadapter_config.json`."""
    constants: QConstants
    load: Callable[[], Loaded]
    """The model in eval mode, and its tokenizer. A target may change the model: it belongs to it."""

    @property
    def base_name(self) -> str:
        """The base model's hub id, or the folder that it was trained from."""
        return str(self.config["base"]["name_or_path"])

    @property
    def of_package_copy(self) -> bool:
        """Whether the base's name on the hub is that of a model with other weights; see `model.loading`."""
        return self.config["base"].get("weights_sha256") == PACKAGE_COPY_SHA256

    def departures(self, *, brings_base: bool, rounded: bool) -> list[str]:
        """By what an export differs from the policy that was trained, beside what is measured; empty where by nothing.

        Args:
            brings_base: whether the base's weights are part of the export; otherwise the reader brings those it names.
            rounded: whether the file holds the weights in fewer digits than the policy was measured with.
        """
        found = []
        if stored_in := self.config["base"].get("load_in"):
            found.append(f"it was trained on the base in {stored_in}, and this is for the base in full precision")
        if self.of_package_copy and not brings_base:
            found.append("it was trained on the package index's copy of its base, and the hub's has other digits")
        if rounded:
            found.append("the file holds the weights in fewer digits")
        return found


def open_source(directory: str | Path, load: Callable[[], Loaded]) -> Source:
    """Read what an artifact says of itself.

    Args:
        directory: the folder, or the id of a repository on the hub that holds one.
        load: loads it onto its base.

    Raises:
        ArtifactError: not an artifact, or damaged.
    """
    folder = local_folder(directory)
    config = read_config(folder)
    return Source(folder, config, read_constants(config, folder), load)

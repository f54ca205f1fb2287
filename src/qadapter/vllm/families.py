"""Which model families can be served, and the names of our architectures. Known without vLLM."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """One family of base models."""

    architecture: str
    """The base's architecture in its config.json; vLLM's model of this name is what ours is built from."""

    @property
    def served(self) -> str:
        """Our architecture in the exported folder's config.json, and the name of its class in `models`."""
        return f"QAdapter{self.architecture}"

    @property
    def model_type(self) -> str:
        """The exported folder's model type: unknown to transformers, which would load the base alone in silence."""
        return f"qadapter_{self.architecture.removesuffix('ForCausalLM').lower()}"


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen3": Family("Qwen3ForCausalLM"),
}
"""By the base's model type."""

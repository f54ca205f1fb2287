"""The exported folders' configs, of model types that transformers does not know by itself."""

from __future__ import annotations

from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from ..families import FAMILIES


class QAdapterLlamaConfig(LlamaConfig):
    """Llama's, with the section `qadapter`."""

    model_type = FAMILIES["llama"].model_type


class QAdapterQwen2Config(Qwen2Config):
    """Qwen2's, with the section `qadapter`."""

    model_type = FAMILIES["qwen2"].model_type


class QAdapterQwen3Config(Qwen3Config):
    """Qwen3's, with the section `qadapter`."""

    model_type = FAMILIES["qwen3"].model_type


CONFIGS = (QAdapterLlamaConfig, QAdapterQwen2Config, QAdapterQwen3Config)

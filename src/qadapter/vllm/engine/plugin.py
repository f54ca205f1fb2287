"""What the entry point `vllm.general_plugins` calls in every process of vLLM, whichever model it serves."""

from __future__ import annotations

import logging

from transformers import AutoConfig

from ..families import FAMILIES
from .configs import CONFIGS

logger = logging.getLogger(__name__)


def register() -> None:
    """Make the architectures of exported folders known. May be called more than once.

    Where this vLLM lacks a place that is needed, nothing is registered: it then knows no such architecture and says
    so, where a half registration would serve without the refusals. Other models are not disturbed.
    """
    try:
        from vllm import ModelRegistry
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP

        from .engine_config import EngineConfig
    except ImportError as error:
        logger.warning("Q-Adapter models cannot be served by this vLLM: %s", error)
        return
    for config in CONFIGS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for family in FAMILIES.values():
        ModelRegistry.register_model(family.served, f"{__package__}.models:{family.served}")
        MODELS_CONFIG_MAP[family.served] = EngineConfig

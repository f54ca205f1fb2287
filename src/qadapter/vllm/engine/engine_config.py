"""What is refused in the engine's options, and the options that the model needs. vLLM asks this when it starts."""

from __future__ import annotations

import logging
import os

import vllm
from vllm.config import VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from ...errors import ConfigError
from ..dial_request import CONFIGURED
from ..served_policy import SECTION, served_policy

logger = logging.getLogger(__name__)

TESTED = ("0.32",)
"""Releases of vLLM with which tests/vllm_plugin passes."""
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


class EngineConfig(VerifyAndUpdateConfig):
    """Checks of an engine that is to serve an exported folder."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse what would serve another policy or was not written; add what follows the running batch.

        Raises:
            ConfigError: an option that cannot be served.
        """
        policy = served_policy(getattr(vllm_config.model_config.hf_config, SECTION, None))
        if note := version_note(vllm.__version__):
            logger.warning(note)
        if refusal := refused(vllm_config):
            raise ConfigError(*refusal)
        _use_runner_v1(vllm_config)
        CONFIGURED.append(policy)
        processors = vllm_config.model_config.logits_processors or []
        vllm_config.model_config.logits_processors = [*processors, f"{__package__}.request_dial:RequestDial"]


def version_note(version: str) -> str | None:
    """A warning where this version of vLLM is not one of those tested."""
    if version.startswith(tuple(f"{tested}." for tested in TESTED)):
        return None
    return (
        f"Q-Adapter's model was tested with vLLM {', '.join(TESTED)}, this is {version}. Compare some log-probs with "
        "those of `qadapter generate` before you trust it."
    )


def refused(vllm_config: VllmConfig) -> tuple[str, str] | None:
    """What cannot be served and the way out, or None."""
    if vllm_config.lora_config is not None:
        return (
            "--enable-lora on top of a two-policy model is not served: another LoRA would change both policies.",
            "start it without --enable-lora; serve each adapter's folder by an engine of its own",
        )
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        return (
            "pipeline parallelism is not served: the mixture needs both policies' final states in one process.",
            "use --tensor-parallel-size or --data-parallel-size",
        )
    if vllm_config.parallel_config.use_ubatching:
        return (
            "micro-batches are not served: a half batch would read the dials of the other half's requests.",
            "start it without --enable-dbo",
        )
    if vllm_config.model_config.quantization is not None:
        return (
            f"quantization ({vllm_config.model_config.quantization}) is not served: the low-rank products were written "
            "for plain weights.",
            "serve in bfloat16, or quantize a merged export (qadapter export --to merged)",
        )
    if vllm_config.speculative_config is not None:
        return (
            "speculative decoding is not served: vLLM keeps no request's own values with it.",
            "start it without --speculative-config",
        )
    if vllm_config.model_config.runner_type != "generate":
        return ("only text generation is served.", "serve the base model itself for embeddings and classification")
    return None


def _use_runner_v1(vllm_config: VllmConfig) -> None:
    """The newer runner does not tell a model which request a token belongs to."""
    if not vllm_config.use_v2_model_runner:
        return
    if os.environ.get(_RUNNER):
        raise ConfigError(f"{_RUNNER}={os.environ[_RUNNER]} is not served.", hint=f"unset it, or set {_RUNNER}=0")
    logger.warning("Q-Adapter's model runs on vLLM's model runner V1: setting %s=0.", _RUNNER)
    os.environ[_RUNNER] = "0"

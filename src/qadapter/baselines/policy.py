"""A LoRA that another trainer has trained, or none at all, as a policy of ours."""

from __future__ import annotations

from peft import PeftModel
from transformers import PreTrainedModel

from ..model import QAdapterForCausalLM, QConstants, load_base
from .arguments import CommonArguments

BASELINE_CONSTANTS = QConstants("residual", alpha_0=1.0, alpha_tilde=1.0, value_state="same")
"""ρ = 1: strength 1 is softmax(z₁), the LoRA's own policy, and strength 0 the base at temperature 1. The return is the
log-ratio of the two, also of a response that was cut: no objective has fixed the value of the state it was left in."""


def plain_base(common: CommonArguments) -> PreTrainedModel:
    """The base model as every method gets it: frozen weights stored in `dtype`."""
    return load_base(common.model, dtype=common.dtype, revision=common.revision)


def base_policy(common: CommonArguments) -> QAdapterForCausalLM:
    """The base with an untrained LoRA: the base itself at every strength."""
    return QAdapterForCausalLM(plain_base(common), BASELINE_CONSTANTS, common.lora_config).eval()


def adapter_policy(peft_model: PeftModel) -> QAdapterForCausalLM:
    """A plain LoRA as a policy with `BASELINE_CONSTANTS`."""
    return QAdapterForCausalLM(peft_model.get_base_model(), BASELINE_CONSTANTS, peft_model=peft_model)

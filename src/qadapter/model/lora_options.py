"""Which options of PEFT's LoRA keep the base as it is and load again as they were trained."""

from __future__ import annotations

import dataclasses

from peft import LoraConfig, PeftConfig

from ..errors import UnsupportedModelError

# Each release of PEFT takes more options, some of which rewrite the base (KaSA) or cannot be loaded by us (MonteCLoRA,
# VeLoRA), so what is not known here is refused.
_KNOWN = (
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
)
# How a layer stores its weights PEFT finds itself; the runtime's options say where it computes.
_WITHOUT_EFFECT = ("fan_in_fan_out", "runtime_config", *(field.name for field in dataclasses.fields(PeftConfig)))

# Those that leave the base's weights alone; the others (PiSSA, OLoRA, LoftQ, ...) take the LoRA's start out of them.
_INITIALISATIONS = (True, False, "gaussian", "orthogonal")


def check_lora_options(config: PeftConfig) -> None:
    """Refuse an adapter that is no LoRA, and options that are not known to work.

    Raises:
        UnsupportedModelError: it names the option.
    """
    if not isinstance(config, LoraConfig):
        raise UnsupportedModelError(f"the adapter must be a LoRA, got {type(config).__name__}.")
    usual = LoraConfig()
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(usual, field.name, None)
        if field.name not in (*_KNOWN, *_WITHOUT_EFFECT) and value and value != default:
            raise UnsupportedModelError(
                f"LoRA option {field.name}={value!r} is not known to leave the weights of the frozen base, which is "
                "also π₀, as they are, and to load as it was trained.",
                hint=f"leave it at {default!r}; these can be used: {', '.join(_KNOWN)}",
            )


def check_lora_start(config: LoraConfig) -> None:
    """Refuse a LoRA that changes the base's weights as soon as it is put on it.

    Raises:
        UnsupportedModelError: it names the option.
    """
    if config.init_lora_weights not in _INITIALISATIONS:
        raise UnsupportedModelError(
            f"LoRA option init_lora_weights={config.init_lora_weights!r} changes weights of the frozen base, which is "
            "also π₀.",
            hint="leave it at True",
        )

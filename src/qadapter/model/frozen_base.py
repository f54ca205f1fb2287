"""The frozen base model: what it must be like, and its LM head as the mathematics sees it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..core import LMHead
from ..errors import UnsupportedModelError
from .quantization import keep_gradients, rounds_activations_in_eval_mode


def freeze_base(base: PreTrainedModel) -> None:
    """Make the base a constant: no gradients, and no dropout in train mode (π₀ must not be random).

    Args:
        base: a causal LM of transformers; mutated in place.

    Raises:
        UnsupportedModelError: an encoder-decoder, recurrent, mixture-of-experts or bare model, one without a cache of
            keys and values, or one with an adapter.
    """
    name = type(base).__name__
    # What is in a layer of PEFT is neither the base's, to be frozen as π₀, nor this adapter's.
    if isinstance(base, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in base.modules()):
        raise UnsupportedModelError(
            f"{name} already carries an adapter: of its own folder, or of an earlier model or trainer that was made of "
            "the same object.",
            hint="load the base anew; or, where the adapter belongs to it, give it merged: "
            "peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(OTHER_FOLDER)",
        )
    if base.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name} is an encoder-decoder model; a decoder-only causal LM is needed.")
    if base._is_stateful:
        raise UnsupportedModelError(f"{name} keeps a recurrent state that cannot hold two policies' rows.")
    if "past_key_values" not in inspect.signature(base.forward).parameters:
        raise UnsupportedModelError(
            f"{name} has no cache of keys and values (its forward takes no past_key_values), which decoding needs.",
            hint="take a base of a family that has one, such as Llama, Qwen, Mistral, Gemma, Phi or GPT-2",
        )
    if _has_experts(base):
        raise UnsupportedModelError(
            f"{name} has mixture-of-experts layers, which do not keep the rows of a batch apart."
        )
    if base.base_model is base or base.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} has no LM head over a backbone.", hint="load it with AutoModelForCausalLM")
    base.requires_grad_(False)
    keep_gradients(base)
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Many models hand a number of theirs to F.dropout instead: dropout, attention_dropout, resid_pdrop.
        _drop_nothing(module)
    # Others (Falcon, Persimmon) ask their config in each pass.
    _drop_nothing(base.config.get_text_config())


def _has_experts(base: PreTrainedModel) -> bool:
    """Whether there is a mixture of experts among its modules; families such as Gemma 4 come with and without."""
    return any(
        name.rpartition(".")[2] == "experts" or "Experts" in type(module).__name__
        for name, module in base.named_modules()
    )


def _drop_nothing(owner: Any) -> None:
    for name, value in vars(owner).items():
        if "drop" in name and isinstance(value, float):
            setattr(owner, name, 0.0)


def rest_base(module: nn.Module) -> None:
    """Put the base's own modules into eval mode, and leave the LoRA layers inside, with their dropout, as they are.

    In train mode some models compute another function, or write into their weights (Gemma 3n). What can recompute
    its activations stays as it is, too: transformers does so in train mode alone. So do layers in 8 bits, whose
    products in eval mode are for decoding.
    """
    if isinstance(module, BaseTunerLayer):
        rest_base(module.get_base_layer())
        return
    if not (hasattr(module, "gradient_checkpointing") or rounds_activations_in_eval_mode(module)):
        module.training = False
    for child in module.children():
        rest_base(child)


def lm_head_of(base: PreTrainedModel) -> LMHead:
    """The LM head with the factors that the model's forward applies to its product.

    Args:
        base: the base model.

    Returns:
        A view on the weights as they are now (they may have moved to another device since the last call). Sharded
        ones (FSDP, ZeRO-3) are gathered, so all processes must call this: the products with them are not the head's own
        forward, before which FSDP would do it.
    """
    linear = base.get_output_embeddings()
    config = base.config.get_text_config()
    logits_scaling = getattr(config, "logits_scaling", None)
    return LMHead(
        weight=_whole(linear.weight),
        bias=None if getattr(linear, "bias", None) is None else _whole(linear.bias),
        scale=1.0 / logits_scaling if logits_scaling else float(getattr(config, "logit_scale", None) or 1.0),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _whole(weight: Tensor) -> Tensor:
    if hasattr(weight, "ds_id"):  # ZeRO-3
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([weight]):
            return weight.detach().clone()
    if isinstance(weight, DTensor):
        whole: Tensor = weight.full_tensor()
        return whole.detach()
    return weight


def probe_ids(base: PreTrainedModel) -> Tensor | None:
    """[1, 4] tokens to try a base on; None where its weights are on the meta device and cannot be tried."""
    if any(parameter.is_meta for parameter in base.parameters()):
        return None
    return torch.arange(2, 6, device=base.get_input_embeddings().weight.device)[None]


@contextmanager
def in_eval_mode(base: PreTrainedModel) -> Iterator[None]:
    """Run the body with the base in eval mode; the mode that it was in comes back."""
    was_training = base.training
    base.eval()
    try:
        yield
    finally:
        base.train(was_training)


@torch.no_grad()
def check_lm_head(base: PreTrainedModel) -> None:
    """Compare our reading of the head with the model's own logits on a few tokens.

    A head with a factor unknown to us would make every Q-value wrong in silence; this finds it.

    Raises:
        UnsupportedModelError: the two differ by more than rounding.
    """
    if (ids := probe_ids(base)) is None:
        return
    with in_eval_mode(base):
        theirs = base(input_ids=ids, use_cache=False).logits.float()
        ours = lm_head_of(base).logits(base.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
    # bf16 carries 8 bits: the same product may differ by two units in the last place.
    tolerance = (1e-3 if base.dtype == torch.float32 else 3e-2) * max(1.0, float(theirs.abs().max()))
    difference = float((theirs - ours.to(theirs.device)).abs().max())
    if theirs.shape != ours.shape or not difference <= tolerance:
        raise UnsupportedModelError(
            f"the logits of {type(base).__name__} are not its LM head applied to its final hidden states "
            f"(they differ by {difference:.3g}), so the two policies cannot be mixed exactly."
        )


def refuse_several_devices(base: PreTrainedModel) -> None:
    """Refuse a base whose layers lie on several devices: both policies' hidden states meet at its LM head.

    Raises:
        UnsupportedModelError: it names the devices.
    """
    devices = sorted({str(device) for device in getattr(base, "hf_device_map", {}).values()})
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"the layers of the base are spread over several devices ({', '.join(devices)}).",
            hint="train with --launch recipes/accelerate/fsdp2.yaml, or store the base in few bits with load_in",
        )

"""Which modules of a base a pass over text calls: in the others, as a vision tower, a LoRA never gets a gradient."""

from __future__ import annotations

import copy
import logging
import re
from functools import partial

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import ConfigError
from .frozen_base import in_eval_mode, probe_ids

logger = logging.getLogger(__name__)


@torch.no_grad()
def uncalled_modules(base: PreTrainedModel) -> list[str]:
    """The largest modules with linear layers that a pass over a few tokens does not call, but for the LM head.

    Found by such a pass and not by the names of towers, as there are also single layers of this kind: the key
    projections of a layer that takes the keys of an earlier one.

    Args:
        base: the base without a LoRA.

    Returns:
        Their names; none where the weights are on the meta device and the base cannot be tried.
    """
    if (ids := probe_ids(base)) is None:
        return []
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(partial(lambda name, *_: called.add(name), name))
        for name, module in base.named_modules()
    ]
    try:
        with in_eval_mode(base):
            base.base_model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    on_the_way = {"", *called, *(parent for name in called for parent in _parents(name))}
    return [
        name
        for name, module in base.named_modules()
        if name not in on_the_way
        and name.rpartition(".")[0] in on_the_way
        and module is not base.get_output_embeddings()
        and any(isinstance(layer, nn.Linear | Conv1D) for layer in module.modules())
    ]


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def leave_out(config: LoraConfig, uncalled: list[str]) -> LoraConfig:
    """A LoRA on all linear layers without those that no pass over text calls; one on named modules as it is.

    Args:
        config: of the LoRA; it stays as it was.
        uncalled: from `uncalled_modules`.
    """
    if not uncalled or str(config.target_modules).lower() != "all-linear":
        return config
    logger.info("the LoRA leaves out what no pass over text calls: %s", ", ".join(uncalled))
    already = config.exclude_modules or []
    patterns = [already] if isinstance(already, str) else [rf"(.*\.)?{re.escape(name)}" for name in sorted(already)]
    found = copy.copy(config)
    found.exclude_modules = "|".join([*patterns, *(rf"{re.escape(name)}(\..*)?" for name in uncalled)])
    return found


def refuse_uncalled(peft_model: PeftModel, uncalled: list[str]) -> None:
    """Refuse a LoRA on modules that no pass over text calls; the base is then as it was before it got the LoRA.

    Raises:
        ConfigError: it names the first of them.
    """
    inside = tuple(f"{name}." for name in uncalled)
    targets = [name for name in peft_model.base_model.targeted_module_names if f"{name}.".startswith(inside)]
    if not targets:
        return
    name = type(peft_model.unload()).__name__
    raise ConfigError(
        f"{len(targets)} modules of {name} that would get a LoRA are called by no pass over text, so that it would "
        f"never be trained: {', '.join(targets[:3])}{', ...' if len(targets) > 3 else ''}.",
        hint="leave lora_target_modules out, which takes all linear layers but those; or, in Python, give a "
        rf"peft_config with exclude_modules, such as r'{re.escape(uncalled[0])}(\..*)?'",
    )

"""The policies that an evaluation compares: the base, and the customized one at a strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..model import QAdapterForCausalLM

Policy = Callable[..., Any]
"""A causal LM, or its forward with a dial: takes a causal LM's inputs by keyword, returns an object with `.logits`."""


def policy_at(model: QAdapterForCausalLM, strength: float) -> dict[str, Any]:
    """Keywords of the model's `forward` and `generate` for the policy at a strength; 0 is the base itself.

    The dial's own zero is π₀^(α₀/α̃): with the paper's constants, a nearly uniform policy. What a customized policy is
    compared with is what the user had before, π₀ at its own temperature, so at strength 0 α₀ is set to α̃.
    """
    if strength == 0:
        return {"strength": 0.0, "alpha_0": model.constants.alpha_tilde}
    return {"strength": strength}


def forward_at(model: QAdapterForCausalLM, strength: float) -> Policy:
    """The model's forward with `policy_at`'s keywords filled in, and logits that are not rounded below float32.

    Two policies that hardly differ round their logits apart: in bfloat16 by more than they differ.
    """
    dial = policy_at(model, strength)
    logits_dtype = torch.promote_types(model.head.weight.dtype, torch.float32)

    def forward(**inputs: Any) -> Any:
        return model(**inputs, **dial, logits_dtype=logits_dtype)

    return forward

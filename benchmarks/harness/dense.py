"""The objective as the paper's official code computes it: two sequential passes over two rows a pair, and two full
float32 tensors of tokens × vocabulary.

Its faults (docs/official-code.md) are not copied; what they cost is. Values agree with `qadapter` to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

ALPHA_0, ALPHA_TILDE, CHI2_COEF = 0.01, 1.0, 0.1


def dense_loss(
    model: PeftModel, *, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, terminated: Tensor
) -> Tensor:
    """Mean loss of a batch, parametrization `logits`, γ = 1.

    Args:
        model: the base with a LoRA.
        input_ids, attention_mask, completion_mask: [2·pairs, tokens], chosen rows first.
        terminated: [2·pairs] bool; all must be True.
    """
    assert bool(terminated.all()), "rows of the benchmark are not cut"
    with torch.no_grad(), model.disable_adapter():
        base_logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits.float()
    q = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits.float()
    base_logp = F.log_softmax(base_logits, dim=-1)
    v = ALPHA_TILDE * torch.logsumexp((q + ALPHA_0 * base_logp) / ALPHA_TILDE, dim=-1)[:, :-1]
    q_t = q[:, :-1].gather(2, input_ids[:, 1:, None])[..., 0]
    is_action = completion_mask[:, 1:].bool()
    # V of the next state; the one after the last token is terminal, with value 0.
    v_next = F.pad((v * is_action)[:, 1:], (0, 1))
    reward = (q_t - v_next) * is_action
    chosen, rejected = reward.sum(dim=1).chunk(2)
    squares, tokens = reward.square().sum(dim=1).chunk(2), is_action.sum(dim=1).chunk(2)
    chi2 = (squares[0] + squares[1]) / (tokens[0] + tokens[1])
    return (-F.logsigmoid(chosen - rejected) + CHI2_COEF * chi2).mean()

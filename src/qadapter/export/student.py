"""A LoRA that learns the mixed policy of another one on the same base.

The trainer holds a policy at the frozen base on anchors, by KL(π₀ ‖ π̃) over the vocabulary. A student is held at the
mixed policy instead: with a linear LM head its logits a·z₁ + b·z₀ are those of one hidden state, a·h₁ + b·h₀. That
state takes the place of the base's in the loss, and nothing else of training changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core import BaseStates, LMHead, Mixture, base_states
from ..core.lm_head import mix_hidden_states
from ..errors import UnsupportedModelError
from ..model import QAdapterForCausalLM, QConstants, Rows
from ..model.masked_attention import matrix_attention
from ..model.preference_batch import PreferenceBatch
from .peft import scale_factors

STUDENT_CONSTANTS = QConstants("residual", alpha_0=1.0, alpha_tilde=1.0, chi2_coef=0.0, anchor_coef=1.0)
"""Its policy is its own softmax(z₁), and an anchor's loss is the KL alone."""


class Student(QAdapterForCausalLM):
    """The adapter of a teacher, about to become a policy of its own. It shares the teacher's modules.

    It starts as the teacher's LoRA scaled by a/(a + b), which agrees with the mixed policy to first order (but for its
    temperature, where a + b ≠ 1). Its dropout is zero: the teacher is to be matched, not regularized.

    Args:
        teacher: whose mixed policy is learned; its adapter is changed from here on, but inside `as_teacher`.
        strength: η of that policy.

    Raises:
        UnsupportedModelError: an LM head for which the mixed policy is no single hidden state.
    """

    def __init__(self, teacher: QAdapterForCausalLM, strength: float) -> None:
        mixture = teacher.constants.mixture(strength)
        _check_head(teacher.head, mixture)
        super().__init__(teacher.base, STUDENT_CONSTANTS, peft_model=teacher.peft_model)
        self.mixture = mixture
        self.row_router = teacher.row_router  # that the layers already listen to
        for layer in self.row_router.layers:
            for dropout in layer.lora_dropout.values():
                if isinstance(dropout, nn.Dropout):
                    dropout.p = 0.0
        self._factors = [parameter for name, parameter in self.named_parameters() if "lora_" in name]
        self._teachers = [factor.detach().clone() for factor in self._factors]
        total = mixture.adapter + mixture.base
        scale_factors(self, float(mixture.adapter / total) if total > 0 else 1.0)
        for factor in self._factors:
            factor.requires_grad_(True)

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Inside, the adapter is the teacher's; the student's is put back also after an exception."""
        own = [factor.data for factor in self._factors]
        try:
            for factor, data in zip(self._factors, self._teachers, strict=True):
                factor.data = data
            yield
        finally:
            for factor, data in zip(self._factors, own, strict=True):
                factor.data = data

    @torch.no_grad()
    def _base_states(self, batch: PreferenceBatch, head: LMHead, anchor: Tensor | None) -> BaseStates:
        with self.as_teacher(), matrix_attention(self.base):
            h1, h0 = (self._hidden(batch, rows) for rows in (Rows.ADAPTER, Rows.BASE))
        mixed = mix_hidden_states(h1, h0, self.mixture).to(self.dtype)
        return base_states(mixed, head, batch.states.action, keep_hidden=True)

    def _hidden(self, batch: PreferenceBatch, rows: Any) -> Tensor:
        with self.row_router.route(rows):
            hidden: Tensor = self.base.base_model(**batch.inputs).last_hidden_state[batch.at]
        return hidden


def _check_head(head: LMHead, mixture: Mixture) -> None:
    if head.softcap is not None or (head.bias is not None and mixture.adapter + mixture.base != 1):
        reason = "soft-capped" if head.softcap is not None else "biased, and the policy's temperature is not one"
        raise UnsupportedModelError(
            f"--to distilled: the LM head is {reason}: the mixed policy is not that of one hidden state.",
            hint="`qadapter serve` decodes with both policies",
        )

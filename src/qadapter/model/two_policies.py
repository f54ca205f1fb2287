"""The two policies of a frozen base and its LoRA adapter as one module, and the loss of preference pairs over them."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..core import BaseStates, LMHead, base_states
from ..errors import ConfigError
from .constants import QConstants
from .fingerprint import BaseFingerprint, base_fingerprint
from .frozen_base import check_lm_head, freeze_base, lm_head_of, refuse_several_devices, rest_base
from .lora import RowRouter, Rows, check_lora, check_rows, lora_config, put_on
from .lora_options import check_lora_options, check_lora_start
from .masked_attention import matrix_attention
from .pair_loss import PreferenceOutput, pair_loss
from .positions import declared_positions, usable_positions
from .preference_batch import PreferenceBatch, preference_batch
from .shared_prefix import packed_attention_mask, packed_block_mask, shortest_window, why_not_packable
from .text_modules import leave_out, refuse_uncalled, uncalled_modules

logger = transformers.logging.get_logger(__name__)


class TwoPolicies(PreTrainedModel):
    """π₀ and the policy of the adapter, on one copy of the base's weights.

    Built and refused as `QAdapterForCausalLM` says.
    """

    # What the base supports was checked when the base was built; its config is shared.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    supports_gradient_checkpointing = True
    base_model_prefix = ""
    main_input_name = "input_ids"

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # asked for the config of a dense base whose family also comes with experts

    def __init__(
        self,
        base: PreTrainedModel,
        constants: QConstants | None = None,
        peft_config: LoraConfig | None = None,
        *,
        peft_model: PeftModel | None = None,
    ) -> None:
        if peft_model is None:
            refuse_several_devices(base)
            freeze_base(base)
            check_lm_head(base)
            peft_config = peft_config or lora_config()
            check_lora_options(peft_config)
            check_lora_start(peft_config)
            uncalled = uncalled_modules(base)
            peft_model = put_on(base, leave_out(peft_config, uncalled))
            refuse_uncalled(peft_model, uncalled)
        super().__init__(base.config)
        self.constants = constants or QConstants()
        self.peft_model = peft_model
        self.generation_config = base.generation_config
        self._no_split_modules = base._no_split_modules  # what FSDP shards as one
        if hasattr(base, "hf_device_map"):
            self.hf_device_map = base.hf_device_map  # the Trainer leaves a model on its devices that has one
        check_lora(peft_model)
        self.row_router = RowRouter(base)
        check_rows(base, self.row_router)
        rest_base(base)
        self.window = shortest_window(base)
        reason = why_not_packable(base)
        self.share_prefix = reason is None
        """Whether a pair's prompt is read once for both responses; the result is the same to rounding."""
        if reason is not None:
            logger.warning(f"{type(base).__name__}: {reason}; a pair is trained as two rows (slower, same result).")
        if self.max_positions != declared_positions(base):
            logger.warning(
                f"{type(base).__name__}: beyond {self.max_positions} positions its RoPE takes other frequencies for "
                "all rows of a batch; only so many are used."
            )

    def train(self, mode: bool = True) -> TwoPolicies:
        """Set the mode of the adapter; the base, a constant, stays in eval mode (`rest_base` says what does not)."""
        super().train(mode)
        rest_base(self.base)
        return self

    @property
    def base(self) -> PreTrainedModel:
        """The frozen base model with the LoRA layers inside."""
        return self.peft_model.get_base_model()

    @property
    def head(self) -> LMHead:
        """The frozen LM head that both policies share."""
        return lm_head_of(self.base)

    @cached_property
    def base_fingerprint(self) -> BaseFingerprint:
        """`base_fingerprint` of the base: a constant, as the base is. Taken before the weights are sharded."""
        return base_fingerprint(self.base)

    @property
    def max_positions(self) -> int | None:
        """`usable_positions` of the base."""
        return usable_positions(self.base)

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()

    def get_decoder(self, *_args: object, **_kwargs: object) -> nn.Module:
        return self.base.base_model

    # ------------------------------------------------------------------ loss

    def preference_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        completion_mask: Tensor,
        terminated: Tensor | None,
        known: BaseStates | None,
        anchor: Tensor | None,
        **backbone_kwargs: Any,
    ) -> PreferenceOutput:
        """The loss of a batch of preference pairs; the arguments as in `QAdapterForCausalLM.forward`.

        Raises:
            DataError: a row without prompt or without response tokens.
            ConfigError: base states of another batch, or without the hidden states that anchors need.
        """
        batch = self._batch(input_ids, attention_mask, completion_mask, terminated, **backbone_kwargs)
        if known is not None and len(known.action_logits) != len(batch.states.row):
            raise ConfigError(
                f"base_states holds {len(known.action_logits)} states, the responses of this batch have "
                f"{len(batch.states.row)}."
            )
        head = self.head
        base = self._base_states(batch, head, anchor) if known is None else known
        with self.row_router.route(Rows.ADAPTER), matrix_attention(self.base):
            adapter_hidden = self.base.base_model(**batch.inputs).last_hidden_state[batch.at]
        anchor = None if anchor is None else anchor.chunk(2)[0]
        return pair_loss(adapter_hidden, base, head, self.constants, batch.states, anchor)

    def base_states_of_pairs(self, *args: Any, anchor: Tensor | None = None, **kwargs: Any) -> BaseStates:
        """What the base contributes to the loss of a preference batch: the same whatever the adapter has learned.

        Args:
            *args, **kwargs: input_ids, attention_mask, completion_mask, terminated, and what the backbone takes.
            anchor: where it is given, h₀ is kept.

        Returns:
            One entry per state that counts, in the order of `ResponseStates`; no gradients.
        """
        return self._base_states(self._batch(*args, **kwargs), self.head, anchor)

    @torch.no_grad()
    def _base_states(self, batch: PreferenceBatch, head: LMHead, anchor: Tensor | None) -> BaseStates:
        with self.row_router.route(Rows.BASE), matrix_attention(self.base):
            hidden = self.base.base_model(**batch.inputs).last_hidden_state[batch.at]
        keep_hidden = anchor is not None or self.constants.needs_base_hidden
        return base_states(hidden, head, batch.states.action, keep_hidden=keep_hidden)

    def _batch(self, *args: Any, **kwargs: Any) -> PreferenceBatch:
        flex = self.base.config.get_text_config()._attn_implementation == "flex_attention"
        mask_of = packed_block_mask if flex else partial(packed_attention_mask, dtype=self.dtype)
        return preference_batch(*args, share_prefix=self.share_prefix, window=self.window, mask_of=mask_of, **kwargs)

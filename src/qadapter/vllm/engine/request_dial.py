"""Follows the running batch and keeps the weights (a, b) of its rows.

vLLM tells a logits processor of every request that joins, leaves or moves, before the step's forward. Nothing else
of it is used: the mixture is taken on hidden states, which a logits processor never sees.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from ...core import Mixture
from ..dial_request import check_request, dials_of_request
from ..row_mixtures import ENGINES, RowMixtures
from ..served_policy import SECTION, served_policy


class RequestDial(LogitsProcessor):
    """strength, alpha_0 and alpha_tilde of each request, from `SamplingParams.extra_args`."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `ConfigError`, a `ValueError`, for values that cannot be served; over HTTP it becomes status 400."""
        check_request(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.policy = served_policy(getattr(vllm_config.model_config.hf_config, SECTION, None))
        self.rows = RowMixtures(self.policy.mixture(), vllm_config.scheduler_config.max_num_seqs, device)
        self.requests: dict[int, Mixture] = {}
        ENGINES[vllm_config.instance_id] = self.rows

    def is_argmax_invariant(self) -> bool:
        """True: `apply` changes nothing."""
        return True

    def apply(self, logits: Tensor) -> Tensor:
        """The same logits."""
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Rows as they will be in the next forward."""
        if process_dict_updates(self.requests, batch_update, self._mixture):
            self.rows.set(self.requests)

    def _mixture(self, params: SamplingParams, _prompt: list[int] | None, _output: list[int]) -> Mixture | None:
        """None for a request that sets nothing: its row has the default."""
        dials = dials_of_request(params.extra_args)
        return self.policy.mixture(**dials) if dials else None

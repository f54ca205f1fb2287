"""Reading a prompt, in chunks, so that those who already decode are not kept waiting."""

from __future__ import annotations

from torch import Tensor

from ...model import QAdapterForCausalLM
from ...model.lora import AdapterRows
from .kv_rows import KVRows
from .request import Request
from .step import hidden_states, mixed_logits


class Prefill:
    """The prompt of one request on its way into keys and values of its own.

    They hold one row per policy that the mixture needs, the adapter's first.

    Args:
        model: the base with its adapters.
        request: whose prompt is read.
        layers: attention layers of the model.
    """

    def __init__(self, model: QAdapterForCausalLM, request: Request, layers: int) -> None:
        self.model, self.request = model, request
        self.read = 0
        """Tokens of the prompt that have been read."""
        adapter, mixture = request.policy
        self._adapter_row = 0 if mixture.adapter else None
        self._base_row = (1 if mixture.adapter else 0) if mixture.base else None
        self._routing = (AdapterRows(adapter, 0, 1),) if mixture.adapter else ()
        self.cache = KVRows(layers)
        for _ in range(bool(mixture.adapter) + bool(mixture.base)):
            self.cache.add_row()
        self.cache.reserve(len(self.cache.lengths), len(request.prompt_ids))

    @property
    def left(self) -> int:
        """Tokens of the prompt still to be read."""
        return len(self.request.prompt_ids) - self.read

    def advance(self, tokens: int) -> Tensor | None:
        """Read the next tokens.

        Args:
            tokens: how many at most, at least 1.

        Returns:
            [1, vocabulary] logits of the first token of the answer where the prompt has been read; else None.
        """
        chunk = list(self.request.prompt_ids[self.read : self.read + tokens])
        hidden = hidden_states(self.model, self.cache, [chunk] * len(self.cache.lengths), self._routing)
        self.read += len(chunk)
        if self.left:
            return None
        rows = [(self._adapter_row, self._base_row)]
        return mixed_logits(self.model, hidden[:, -1], rows, [self.request.policy.mixture])

"""Reading prompts, in chunks, so that those who already decode are not kept waiting."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...model import QAdapterForCausalLM
from ...model.lora import AdapterRows
from .kv_rows import KVRows
from .request import Request
from .slots import parts_of
from .step import hidden_states, mixed_logits


class Prefill:
    """Prompts on their way into keys and values of their own, one row per policy that a prompt's mixture needs.

    Several prompts are read whole, in one pass: the weights are fetched once for all of them. One may come in chunks.

    Args:
        model: the base with its adapters.
        requests: whose prompts are read.
        layers: attention layers of the model.
    """

    def __init__(self, model: QAdapterForCausalLM, requests: Sequence[Request], layers: int) -> None:
        self.model, self.requests = model, requests
        self.left = max(len(request.prompt_ids) for request in requests)
        """Columns still to be read: tokens of the longest prompt."""
        self.cache = KVRows(layers)
        self.rows: dict[Request, dict[str | None, int]] = {request: {} for request in requests}
        """Of each prompt, its row per part, in the order of `parts_of`."""
        self._prompts: list[tuple[int, ...]] = []
        self._read = 0
        routing = []
        adapters = dict.fromkeys(part for request in requests for part in parts_of(request.policy) if part is not None)
        for part in (*adapters, None):
            start = len(self._prompts)
            for request in requests:
                if part in parts_of(request.policy):
                    self.rows[request][part] = len(self._prompts)
                    self._prompts.append(request.prompt_ids)
                    self.cache.add_row()
            if part is not None:
                routing.append(AdapterRows(part, start, len(self._prompts)))
        self._routing = tuple(routing)
        self.cache.reserve(len(self._prompts), self.left)

    def tokens(self, columns: int) -> int:
        """How many tokens the next columns hold, of all prompts."""
        return sum(len(request.prompt_ids[self._read : self._read + columns]) for request in self.requests)

    def advance(self, columns: int) -> Tensor | None:
        """Read on.

        Args:
            columns: the next tokens of each prompt, at least 1; all that are left where there are several prompts.

        Returns:
            [requests, vocabulary] logits of each answer's first token where the prompts have been read; else None.
        """
        assert columns == self.left or len(self.requests) == 1, (
            "a prompt that has ended has no tokens for the next pass"
        )
        chunks = [prompt[self._read : self._read + columns] for prompt in self._prompts]
        hidden = hidden_states(self.model, self.cache, chunks, self._routing)
        self._read += columns
        self.left -= columns
        if self.left:
            return None
        last = hidden[range(len(chunks)), [len(chunk) - 1 for chunk in chunks]]
        rows = [(rows.get(request.policy.adapter), rows.get(None)) for request, rows in self.rows.items()]
        return mixed_logits(self.model, last, rows, [request.policy.mixture for request in self.requests])

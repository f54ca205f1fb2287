"""What both policies thought of each token of an answer: where the adapter changed it, and what else was likely."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core import Mixture, ResidualQ
from ...model import QAdapterForCausalLM
from ...model.lora import AdapterRows
from .kv_rows import KVRows
from .step import hidden_states

# States whose logits over the whole vocabulary are held at a time.
_STATES = 32


class TokenView(NamedTuple):
    """One token a_t of an answer, in the state s_t before it."""

    token: int
    policy_logp: float
    """log π̃(a_t|s_t), nats."""
    base_logp: float
    """log π₀(a_t|s_t), nats."""
    residual_q: float
    """Q̂(s_t, a_t), reward units, as it was learned: before the strength."""
    top: list[tuple[int, float]]
    """The likeliest tokens of π̃ and their log-probabilities, in descending order."""
    base_top: list[tuple[int, float]]
    """The same of π₀."""


class Viewing:
    """Reads prompt and answer under both policies, in chunks.

    Args:
        model: the base with its adapters.
        layers: attention layers of the model.
        prompt_ids: at least one token.
        answer_ids: at least one token.
        adapter: PEFT's name of the adapter.
        mixture: of the policy π̃, numbers.
        residual_q: the weights that define Q̂ of this adapter.
        top: number of likeliest tokens to report.
    """

    def __init__(
        self,
        model: QAdapterForCausalLM,
        layers: int,
        prompt_ids: list[int],
        answer_ids: list[int],
        adapter: str,
        mixture: Mixture,
        residual_q: ResidualQ,
        top: int,
    ) -> None:
        self.model, self.mixture, self.residual_q, self.top = model, mixture, residual_q, top
        self.first = len(prompt_ids)
        self.ids = [*prompt_ids, *answer_ids]
        self.views: list[TokenView] = []
        """Of the answer's tokens, as far as they have been read."""
        self._routing = (AdapterRows(adapter, 0, 1),)
        self._read = 0
        self.cache = KVRows(layers)
        """What is held while prompt and answer are read."""
        self.cache.add_row()
        self.cache.add_row()

    def advance(self, tokens: int) -> bool:
        """Read the next tokens; returns whether the answer has been read to its end. Call it in the engine's thread.

        Args:
            tokens: how many at most, at least 1.
        """
        # The last token is nobody's state: nothing is chosen after it.
        chunk = self.ids[self._read : min(self._read + tokens, len(self.ids) - 1)]
        adapter_hidden, base_hidden = hidden_states(self.model, self.cache, [chunk, chunk], self._routing)
        start = max(self.first - 1 - self._read, 0)
        for at in range(start, len(chunk), _STATES):
            block = slice(at, min(at + _STATES, len(chunk)))
            chosen = self.ids[self._read + block.start + 1 : self._read + block.stop + 1]
            self.views += self._views(adapter_hidden[None, block], base_hidden[None, block], chosen)
        self._read += len(chunk)
        return self._read == len(self.ids) - 1

    def _views(self, adapter_hidden: Tensor, base_hidden: Tensor, tokens: list[int]) -> list[TokenView]:
        """hidden states: [1, states, hidden]; the token after each."""
        head = self.model.head
        adapter_logits, base_logits = (head.logits(hidden)[0].float() for hidden in (adapter_hidden, base_hidden))
        policy_logp = head.mixed_logits(adapter_hidden, base_hidden, self.mixture)[0].float().log_softmax(dim=-1)
        base_logp = base_logits.log_softmax(dim=-1)
        index = torch.tensor(tokens, device=base_logits.device)[:, None]
        z1, z0 = adapter_logits.gather(1, index), base_logits.gather(1, index)
        of_token = (policy_logp.gather(1, index), base_logp.gather(1, index), self.residual_q(z1, z0))
        columns = ([row[0] for row in column.tolist()] for column in of_token)
        likeliest = (_likeliest(logp, self.top) for logp in (policy_logp, base_logp))
        return [TokenView(*fields) for fields in zip(tokens, *columns, *likeliest, strict=True)]


def _likeliest(logp: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Of each state."""
    values, tokens = logp.topk(min(count, logp.shape[-1]))
    return [list(zip(*state, strict=True)) for state in zip(tokens.tolist(), values.tolist(), strict=True)]

"""One answer while it is written."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .detokenizer import Detokenizer
from .request import Delta, FinishReason, Policy, Request, TokenLogprob
from .sampling import Sampler, token_logprob
from .stop_strings import StopStrings


class Choice:
    """The state of one choice of a request, but for its keys and values.

    Args:
        request: what was asked for.
        number: which of the request's choices this is.
        tokenizer: of the model.
        stop_ids: the tokens that end an answer.
    """

    def __init__(
        self, request: Request, number: int, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int]
    ) -> None:
        self.request, self.number, self.stop_ids = request, number, stop_ids
        self.policy: Policy = request.policy
        self.sampler = Sampler(request.sampling, number)
        self.last_token = request.prompt_ids[-1]
        self.tokens = 0
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_strings = StopStrings(request.sampling.stop)
        # Length of the text before each token that is not reported yet, with its log-probability.
        self._reports: list[tuple[int, TokenLogprob]] = []
        self._decoded = self._shown = 0

    def take(self, token: int, logits: Tensor) -> Delta:
        """Add a token.

        Args:
            token: what was chosen.
            logits: [vocabulary], what it was chosen from.

        Returns:
            What may be shown now.
        """
        self.last_token = token
        self.tokens += 1
        if token in self.stop_ids:
            return self._finish("stop")
        if (top := self.request.sampling.top_logprobs) is not None:
            self._reports.append((self._decoded, token_logprob(logits, token, top)))
        piece = self._detokenizer.push(token)
        self._decoded += len(piece)
        text = self._stop_strings.push(piece)
        if self._stop_strings.found:
            return self._delta(text, "stop")
        if self.tokens == self.request.sampling.max_tokens:
            return self._finish("length", text)
        return self._delta(text)

    def _finish(self, reason: FinishReason, text: str = "") -> Delta:
        text += self._stop_strings.push(self._detokenizer.flush())
        if self._stop_strings.found:
            return self._delta(text, "stop")
        return self._delta(text + self._stop_strings.flush(), reason)

    def _delta(self, text: str, finish: FinishReason | None = None) -> Delta:
        self._shown += len(text)
        # A token is reported with its text; of an answer cut by a stop string, those that begin before the cut.
        complete = finish is not None and not self._stop_strings.found
        ready = [report for start, report in self._reports if complete or start < self._shown]
        self._reports = [] if finish else self._reports[len(ready) :]
        return Delta(self.number, text, tuple(ready), finish, self.tokens)

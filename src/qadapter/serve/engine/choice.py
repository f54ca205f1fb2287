"""One answer while it is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .detokenizer import Detokenizer, alike, special_ids
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
        self.request, self.number = request, number
        self.stop_ids = {*stop_ids, *special_stops(request.sampling.stop, tokenizer)}
        self.policy: Policy = request.policy
        self.sampler = Sampler(request.sampling, number)
        self.last_token = request.prompt_ids[-1]
        self.tokens = 0
        self._detokenizer = Detokenizer(tokenizer, request.prompt_ids if request.continues else ())
        self._stop_strings = StopStrings(request.sampling.stop)
        self._reports: list[TokenLogprob] = []  # those that wait for their text to be shown
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
        held = self._detokenizer.held
        piece = self._detokenizer.push(token)
        if (top := self.request.sampling.top_logprobs) is not None:
            start = self._decoded + _begins(held, piece + self._detokenizer.held)
            self._reports.append(token_logprob(logits, token, top)._replace(start=start))
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
        ready = list(takewhile(lambda report: complete or report.start < self._shown, self._reports))
        self._reports = [] if finish else self._reports[len(ready) :]
        return Delta(self.number, text, tuple(ready), finish, self.tokens)


def special_stops(stops: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the special tokens among stop strings: they have no text in which these would be found."""
    ids = [(stop, tokenizer.convert_tokens_to_ids(stop)) for stop in stops]
    special = special_ids(tokenizer)
    # A text that is no token has the id of the unknown one.
    return [number for stop, number in ids if number in special and tokenizer.convert_ids_to_tokens(number) == stop]


def _begins(before: str, after: str) -> int:
    """Where in the text that was not certain the character begins that a token made or went on with.

    Args:
        before: the text without the token.
        after: the text with it. The token has lengthened it, or changed its last character from a part to a whole.
    """
    return max(0, min(alike(before, after), len(after) - 1))

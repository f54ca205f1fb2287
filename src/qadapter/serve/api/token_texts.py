"""Tokens as text, one by one."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from ..engine import TokenLogprob


class TokenTexts:
    """The text of single tokens, as they read in the middle of a text.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # Some tokenizers drop a space at the beginning of a text: tokens are decoded behind this one.
        self._before: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._skip = len(self._decode(self._before))
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        """The text of a token; the replacement character stands for a part of a character."""
        if token not in self._known:
            self._known[token] = self._decode([*self._before, token])[self._skip :]
        return self._known[token]

    def name(self, token: int) -> str:
        """The text of a token; of a part of a character what the vocabulary calls it, for many such read alike."""
        text = self(token)
        return self.tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text

    def top_logprobs(self, report: TokenLogprob) -> dict[str, float]:
        """An entry of `logprobs.top_logprobs` of a completion: the likeliest by name, and the token itself."""
        found: dict[str, float] = {}
        # The likeliest first; of tokens with one name it is the one to tell.
        for token, logprob in [*report.top, (report.token, report.logprob)]:
            found.setdefault(self.name(token), logprob)
        return found

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def chat_logprob(self, report: TokenLogprob) -> dict[str, Any]:
        """An entry of `logprobs.content` of a chat answer."""
        top = [self._entry(token, logprob) for token, logprob in report.top]
        return {**self._entry(report.token, report.logprob), "top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self(token)
        # The bytes of a part of a character are not known from its text.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

"""Text from tokens that come one by one."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"
_CONTEXT = 5  # the longest character takes four tokens


class Detokenizer:
    """Releases whole characters: a character may take several tokens, and a token's text may depend on the one before.

    All that was released, joined, is the text of all tokens, without special ones.

    Args:
        tokenizer: of the model.
        before: the tokens whose text this one goes on from. Some tokenizers drop a space where a text begins.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = list(before[-_CONTEXT:])
        # Text is decoded from `_context` on; that of the tokens before `_done` has been released.
        self._context, self._done = 0, len(self.ids)
        self.held = ""
        """The text that is not certain yet, as it would read if no token followed."""

    def push(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        self.ids.append(token)
        text = self._new_text()
        if text.endswith(_INCOMPLETE):
            self.held = text
            return ""
        self.held = ""
        self._context, self._done = self._done, len(self.ids)
        return text

    def flush(self) -> str:
        """The text that was held back: after the last token nothing will complete it."""
        text = self._new_text()
        self.held = ""
        self._context = self._done = len(self.ids)
        return text

    def _new_text(self) -> str:
        return self._decode(self._context, len(self.ids))[len(self._decode(self._context, self._done)) :]

    def _decode(self, start: int, stop: int) -> str:
        return self.tokenizer.decode(self.ids[start:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)

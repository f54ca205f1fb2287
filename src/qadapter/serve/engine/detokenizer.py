"""Text from tokens that come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"
_LONGEST = 4  # tokens of a character, at most
_CONTEXT = _LONGEST + 1
# Tokens that are held at most. One character would do; but where a vocabulary writes with bytes what it lacks, these
# read one by one until the last character of several in a row is complete, and some of them may be U+FFFD itself.
_HELD = 4 * _LONGEST


class Detokenizer:
    """Releases whole characters: a character may take several tokens, and a token's text may depend on the one before.

    All that was released, joined, is the text of all tokens, without special ones; but for a long row of bytes that
    make no character, where the tokenizer reads each of them by all the others.

    Args:
        tokenizer: of the model.
        before: the tokens whose text this one goes on from. Some tokenizers drop a space where a text begins.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self.ids: list[int] = list(before[-_CONTEXT:])
        # What is decoded: the tokens behind `_done`, which may have text that is not released, and a few before them.
        self._done = len(self.ids)
        self._shown = len(self._decode(self.ids))  # characters of that text which are released
        self.held = ""
        """The text that is not certain yet, as it would read if no token followed."""

    def push(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        if token in self._special:
            return ""  # it has no text, and must not count among the tokens of a character around it
        self.ids.append(token)
        self.held = self._text_behind_shown(self.ids)
        if not self.held.endswith(_INCOMPLETE):
            return self._release(len(self.ids), self.held)
        if len(self.ids) - self._done <= _HELD:
            return ""
        # Not all of this is one character. One that is not complete yet has at most the last three tokens, and what
        # came before reads as it always will; but for a character that those three go on with, which differs.
        done = len(self.ids) - (_LONGEST - 1)
        return self._release(done, self.held[: alike(self._text_behind_shown(self.ids[:done]), self.held)])

    def flush(self) -> str:
        """The text that was held back: after the last token nothing will complete it."""
        return self._release(len(self.ids), self.held)

    def _release(self, done: int, text: str) -> str:
        """Let go of the beginning of what is held, and of the tokens whose text it does not need any more.

        Args:
            done: the tokens before it are those that the text came from.
            text: what is released.
        """
        self.held = self.held[len(text) :]
        self.ids, self._done = self.ids[self._done :], done - self._done
        self._shown = len(self._decode(self.ids)) - len(self.held)
        return text

    def _text_behind_shown(self, ids: list[int]) -> str:
        return self._decode(ids)[self._shown :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@lru_cache(maxsize=4)  # it takes up to 20 ms where thousands of tokens were added, and is asked for with each answer
def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that decoding leaves out: also those that were added as special and have no role (`<|header|>`)."""
    added = (token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special)
    return frozenset((*tokenizer.all_special_ids, *added))


def alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)

"""Ending a text before the first of several strings, which may arrive in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Releases text as soon as no part of it can belong to a stop string.

    Args:
        stops: the strings; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece; return what may be shown. After `found` nothing more is."""
        if self.found:
            return ""
        self._held += text
        ends = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            shown, self._held = self._held[: min(ends)], ""
            return shown
        hold = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        shown = self._held[: len(self._held) - hold]
        self._held = self._held[len(shown) :]
        return shown

    def flush(self) -> str:
        """What was held back in case a stop string would follow."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)

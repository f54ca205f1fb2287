"""Token views take turns: each holds keys and values of its own, which nothing else bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine import RefusedError


class Turns:
    """One view at a time is made, and a bounded number waits.

    Args:
        places: most views that wait or are made.
    """

    def __init__(self, places: int) -> None:
        self.places, self.taken = places, 0
        self.turn = asyncio.Lock()
        """Held by the view that is made."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """Wait or be made inside the block.

        Raises:
            RefusedError: all are taken.
        """
        if self.taken >= self.places:
            raise RefusedError(f"{self.taken} token views are being made, which is the most.", retry_after=1)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

"""The answers that are being written, and which row of the batch belongs to whom.

    adapter "default"   a0 a1 a2      the rows of one adapter are neighbours: LoRA is one product per adapter
    adapter "second"    b0
    base                a0 a2 b0 c0   a1 has no base row (its mixture does not need it), c0 has no adapter row

A row that joins or leaves moves at most one row of each part behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...model.lora import AdapterRows
from .choice import Choice
from .kv_rows import KVRows
from .request import Policy


class Slots:
    """The decoding batch.

    Args:
        layers: attention layers of the model.
        adapters: PEFT's names of the adapters.
    """

    def __init__(self, layers: int, adapters: Sequence[str]) -> None:
        self.cache = KVRows(layers)
        self.choices: list[Choice] = []
        """In the order in which they joined."""
        # The base's rows under None, last.
        self._parts: dict[str | None, list[Choice]] = {name: [] for name in [*adapters, None]}

    def join(self, choice: Choice, prefilled: KVRows, rows: Sequence[int]) -> None:
        """Give a choice its rows.

        Args:
            choice: it is not here yet.
            prefilled: keys and values of its prompt.
            rows: where they lie there, one row per part, in the order of `parts_of`.
        """
        self.choices.append(choice)
        for row, part in zip(rows, parts_of(choice.policy), strict=True):
            self._insert(part, choice)
            self.cache.copy_row(prefilled, row, to=self._row(part, choice))

    def leave(self, choice: Choice) -> None:
        """Take a choice's rows away."""
        self.choices.remove(choice)
        for part in parts_of(choice.policy):
            self._remove(part, choice)

    def routing(self) -> tuple[AdapterRows, ...]:
        """Which rows get which adapter."""
        routing, start = [], 0
        for name, members in self._parts.items():
            if name is not None and members:
                routing.append(AdapterRows(name, start, start + len(members)))
            start += len(members)
        return tuple(routing)

    def rows_of(self, choice: Choice) -> tuple[int | None, int | None]:
        """The rows of a choice under its adapter and under the base."""
        adapter, base = choice.policy.adapter, None
        parts = parts_of(choice.policy)
        return (
            self._row(adapter, choice) if adapter in parts else None,
            self._row(base, choice) if base in parts else None,
        )

    def last_tokens(self) -> list[list[int]]:
        """[rows][1]: the token that each row goes on from."""
        return [[choice.last_token] for members in self._parts.values() for choice in members]

    def _row(self, part: str | None, choice: Choice) -> int:
        return self._start(part) + self._parts[part].index(choice)

    def _start(self, part: str | None) -> int:
        start = 0
        for name, members in self._parts.items():
            if name == part:
                break
            start += len(members)
        return start

    def _behind(self, part: str | None) -> list[str | None]:
        """The parts behind one."""
        names = list(self._parts)
        return names[names.index(part) + 1 :]

    def _insert(self, part: str | None, choice: Choice) -> None:
        self.cache.add_row()
        hole = len(self.cache.lengths) - 1
        for name in reversed(self._behind(part)):
            if members := self._parts[name]:
                self.cache.copy_row(self.cache, self._start(name), to=hole)
                hole = self._start(name)
                members.append(members.pop(0))
        self._parts[part].append(choice)

    def _remove(self, part: str | None, choice: Choice) -> None:
        hole = self._row(part, choice)
        members = self._parts[part]
        last = self._start(part) + len(members) - 1
        self._fill(hole, last)
        members[members.index(choice)] = members[-1]
        members.pop()
        hole = last
        for name in self._behind(part):
            if members := self._parts[name]:
                last = hole + len(members)
                self._fill(hole, last)
                members.insert(0, members.pop())
                hole = last
        self.cache.drop_last_row()

    def _fill(self, hole: int, last: int) -> None:
        if hole != last:
            self.cache.copy_row(self.cache, last, to=hole)


def parts_of(policy: Policy) -> list[str | None]:
    """The parts that an answer of a policy has a row in: its adapter's, and None for the base's."""
    adapter, mixture = policy
    return [*([adapter] if mixture.adapter else []), *([None] if mixture.base else [])]

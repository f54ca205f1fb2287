"""Rows of keys and values through random arrivals and departures."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch
from served_model import byte_tokenizer

from qadapter.core import Mixture
from qadapter.serve.engine import Policy, Request, Sampling
from qadapter.serve.engine.choice import Choice
from qadapter.serve.engine.kv_rows import KVRows
from qadapter.serve.engine.slots import Slots, parts_of

LAYERS, HEADS, SIZE = 2, 3, 5
CPU = torch.device("cpu")


def write(cache: KVRows, marks: list[float], queries: int | list[int]) -> None:
    """Let a pass write states that tell rows, layers and positions apart."""
    new = [queries] * len(marks) if isinstance(queries, int) else queries
    positions = max(cache.lengths) + max(new)
    at = cache.begin(new, CPU)
    for number, layer in enumerate(cache.layers):
        states = (torch.tensor(marks)[:, None] * 1000 + at + 0.1 * number)[:, None, :, None].expand(-1, HEADS, -1, SIZE)
        keys, values = layer.update(states, -states)
        assert keys.shape == values.shape == (len(marks), HEADS, positions, SIZE)


def test_memory_goes_with_the_rows() -> None:
    """At once, not when the garbage collector comes by."""
    gc.disable()
    try:
        cache = KVRows(LAYERS)
        cache.add_row()
        write(cache, [1.0], 3)
        keys = weakref.ref(cache.layers[0].keys)
        assert cache.bytes > 0
        del cache
        assert keys() is None
    finally:
        gc.enable()


def check(cache: KVRows, row: int, mark: float, length: int) -> None:
    assert cache.lengths[row] == length
    for number, layer in enumerate(cache.layers):
        expected = mark * 1000 + torch.arange(length) + 0.1 * number
        torch.testing.assert_close(layer.keys[row, :length], expected[:, None, None].expand(-1, HEADS, SIZE))
        torch.testing.assert_close(layer.values[row, :length], -expected[:, None, None].expand(-1, HEADS, SIZE))


def test_rows_of_one_pass_may_get_different_numbers_of_tokens() -> None:
    """What fills up the shorter ones is written over by their next tokens."""
    cache = KVRows(LAYERS)
    for _ in range(3):
        cache.add_row()
    lengths = [0, 0, 0]
    for new in ([130, 7, 1], [1, 1, 1], [2, 90, 31]):
        write(cache, [1.0, 2.0, 3.0], new)
        lengths = [length + tokens for length, tokens in zip(lengths, new, strict=True)]
        for row in range(3):
            check(cache, row, row + 1.0, lengths[row])


@pytest.mark.parametrize("seed", range(5))
def test_every_row_keeps_its_own_states(seed: int) -> None:
    """Against a plain record of who is there: sixty arrivals, departures and steps."""
    rng = random.Random(seed)
    slots = Slots(LAYERS, ["x", "y", "z"])
    tokenizer = byte_tokenizer()
    marks: dict[tuple[int, str | None], float] = {}
    lengths: dict[int, int] = {}
    here: list[Choice] = []
    for _ in range(60):
        action = rng.choice(["join", "join", "leave", "step"])
        if action == "join" and len(here) < 9:
            mixture = rng.choice([Mixture(1.0, 0.0), Mixture(0.0, 1.0), Mixture(0.5, 0.5)])
            request = Request((1,), Policy(rng.choice("xyz"), mixture), Sampling(4), emit=print)
            choice = Choice(request, 0, tokenizer, [2])
            here.append(choice)
            parts = parts_of(choice.policy)
            prefilled = KVRows(LAYERS)
            for part in parts:
                prefilled.add_row()
                marks[id(choice), part] = float(len(marks) + 1)
            lengths[id(choice)] = rng.randrange(1, 150)
            write(prefilled, [marks[id(choice), part] for part in parts], lengths[id(choice)])
            slots.join(choice, prefilled, range(len(parts)))
        elif action == "leave" and here:
            slots.leave(here.pop(rng.randrange(len(here))))
        elif action == "step" and here:
            rows: dict[int, float] = {}
            for choice in here:
                for part, row in zip([choice.policy.adapter, None], slots.rows_of(choice), strict=True):
                    if row is not None:
                        rows[row] = marks[id(choice), part]
                lengths[id(choice)] += 1
            write(slots.cache, [rows[row] for row in range(len(rows))], 1)
        assert len(slots.cache.lengths) == sum(len(parts_of(choice.policy)) for choice in here)
        assert len(slots.last_tokens()) == len(slots.cache.lengths)
        of_adapter = {row: part.adapter for part in slots.routing() for row in range(part.start, part.stop)}
        for choice in here:
            adapter_row, base_row = slots.rows_of(choice)
            if adapter_row is not None:
                assert of_adapter.pop(adapter_row) == choice.policy.adapter
                check(slots.cache, adapter_row, marks[id(choice), choice.policy.adapter], lengths[id(choice)])
            if base_row is not None:
                check(slots.cache, base_row, marks[id(choice), None], lengths[id(choice)])
        assert not of_adapter
    for choice in here:
        slots.leave(choice)
    assert slots.cache.bytes == 0

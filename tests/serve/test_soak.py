"""Hundreds of requests of all kinds at once: each is answered, refused or cancelled, and nothing is left over."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from harness.soak import Soak


def test_three_hundred_requests(api: tuple[str, Any]) -> None:
    url, service = api
    soak = Soak(url, models=["one", "two", "base"], max_body=service.limits.max_body, seed=4)
    counts = soak.run(requests=300, at_once=24)
    assert counts["stuck"] == 0
    assert counts["unexpected"] == [], counts
    assert counts["answered"] > 50
    assert counts["cancelled"] > 20
    assert counts["refused"] > 50
    engine = service.engine
    until = time.monotonic() + 20  # the server notices a little later that we have left
    while not engine.idle and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.idle
    assert engine.slots.cache.lengths == []
    assert engine.slots.choices == []
    assert engine.metrics.failed.value() == 0

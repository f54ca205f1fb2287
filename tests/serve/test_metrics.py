"""What Prometheus reads."""

from __future__ import annotations

from qadapter.serve.metrics import Counter, Gauge, Histogram


def test_no_digit_is_lost() -> None:
    """A rate is a difference of two readings: of large numbers the last digits are all there is to it."""
    tokens, memory, seconds = Counter("a_total", "."), Gauge("b", "."), Histogram("c", ".", (1,))
    tokens.add(12_345_678)
    memory.set(3_221_225_473)
    for value in (1_234_567.25, 0.5):
        seconds.observe(value)
    assert tokens.samples() == ["a_total 12345678"]
    assert memory.samples() == ["b 3221225473"]
    assert seconds.samples() == ['c_bucket{le="1"} 1', 'c_bucket{le="+Inf"} 2', "c_sum 1234567.75", "c_count 2"]

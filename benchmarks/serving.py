"""Load on `qadapter serve` over loopback: eight streams against one, and against eight of the base alone.

    python benchmarks/serving.py            SmolLM2-135M-Instruct, bfloat16, a random adapter; a few minutes on 2 cores

The server runs in a process of its own. Rounds take turns, so that a slow minute of the machine hits all alike. The
result goes to `benchmarks/results/serving-cpu.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.machine import describe
from harness.server import make_adapter, metrics, running_server

RESULTS = Path(__file__).parent / "results" / "serving-cpu.json"
STREAMS, TOKENS = 8, 128
BARS = {"eight_streams_vs_one": (">=", 4.0), "eight_mixed_vs_eight_base": (">=", 0.6), "first_token_steps": ("<=", 2)}
KINDS = {"one_mixed": (1, 0.5), "eight_mixed": (STREAMS, 0.5), "one_base": (1, 0.0), "eight_base": (STREAMS, 0.0)}
PROMPT = (
    "The following is a chapter of a long novel about a family that keeps a small lighthouse on a rocky island in the "
    "north. The winters are hard, the ships are few, and the youngest daughter, number {number}, writes down all "
    "that she sees from the window of the tower.\n\nChapter {number}\n\nThat morning the sea"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        make_adapter(adapter, args.dtype)
        with running_server([str(adapter), "--dtype", args.dtype]) as (url, _):
            asyncio.run(one_turn(url, STREAMS, 0.5, tokens=16))
            turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for _ in range(args.rounds):
                for kind, (streams, strength) in KINDS.items():
                    turns[kind].append(asyncio.run(one_turn(url, streams, strength, TOKENS)))
            steps = first_token_steps(metrics(url))
    result = summary(turns, steps, args.dtype)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["figures"], indent=2))
    return 0


async def one_turn(url: str, streams: int, strength: float, tokens: int) -> dict[str, float]:
    """So many streams at once; what they took together, and what the client itself took of the processors."""
    started, worked = time.perf_counter(), time.process_time()
    times = await asyncio.gather(*[one_stream(url, number, strength, tokens) for number in range(streams)])
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "client_cpu_seconds": time.process_time() - worked,
        "tokens_per_second": streams * tokens / seconds,
        "first_token_seconds": statistics.median(first - started for first, _ in times),
        "seconds_between_tokens": statistics.median((last - first) / (tokens - 1) for first, last in times),
    }


async def one_stream(url: str, number: int, strength: float, tokens: int) -> tuple[float, float]:
    """When the first and the last token of a streamed answer came."""
    address = urlsplit(url)
    body = json.dumps(
        {
            "model": "adapter", "prompt": PROMPT.format(number=number + 1), "max_tokens": tokens, "stream": True,
            "strength": strength, "temperature": 0.8, "seed": number, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    times, lines = [], []
    async for line in reader:
        if line.startswith(b"data: "):
            times.append(time.perf_counter())
            lines.append(line)
    writer.close()
    if len(lines) < 3:
        raise SystemExit(f"a stream failed: {lines}")
    last, usage = (json.loads(line.removeprefix(b"data: ")) for line in lines[-3:-1])
    if last["choices"][0]["finish_reason"] != "length" or usage["usage"]["completion_tokens"] != tokens:
        raise SystemExit(f"an answer ended by itself, so the turns are not alike: {last} {usage}")
    return times[0], times[-3]


def first_token_steps(counters: dict[str, float]) -> float:
    """The most decode steps from a request's admission to its first token, as a bound of the server's histogram."""
    name = "qadapter_first_token_steps_bucket"
    buckets = [(key.split('"')[1], count) for key, count in counters.items() if key.startswith(name)]
    return next(float(bound) for bound, count in buckets if count == buckets[-1][1])


def summary(turns: dict[str, list[dict[str, float]]], steps: float, dtype: str) -> dict[str, Any]:
    """Medians, and the ratios of turns of the same round."""

    def ratio(above: str, below: str) -> float:
        return statistics.median(
            a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(turns[above], turns[below], strict=True)
        )

    medians = {
        kind: {name: statistics.median(turn[name] for turn in of_kind) for name in of_kind[0]}
        for kind, of_kind in turns.items()
    }
    figures = {
        "eight_streams_vs_one": ratio("eight_mixed", "one_mixed"),
        "eight_mixed_vs_eight_base": ratio("eight_mixed", "eight_base"),
        "first_token_steps": steps,
    }
    met = {name: figures[name] >= bar if rule == ">=" else figures[name] <= bar for name, (rule, bar) in BARS.items()}
    return {
        **describe("cpu"),
        "model": "SmolLM2-135M-Instruct",
        "dtype": dtype,
        "streams": STREAMS,
        "tokens_per_stream": TOKENS,
        "figures": figures,
        "bars": {name: f"{rule} {bar}" for name, (rule, bar) in BARS.items()},
        "met": met,
        "medians": medians,
        "turns": turns,
    }


if __name__ == "__main__":
    sys.exit(main())

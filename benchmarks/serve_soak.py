"""Two thousand requests of all kinds on `qadapter serve`: is each answered, refused or cancelled, and memory flat?

As many of the same kinds go before, to warm it up.

    python benchmarks/serve_soak.py [ADAPTER ...]      default: a random adapter of SmolLM2-135M-Instruct

The result goes to `benchmarks/results/serve-soak.json`. The exit status is 1 where something was left over.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from harness.machine import describe
from harness.server import make_adapter, metrics, running_server
from harness.soak import Soak

RESULTS = Path(__file__).parent / "results" / "serve-soak.json"
MAX_BODY = 100_000
PARTS = 8
# Growth after the warm-up would be a leak. Before, the CPU's libraries keep what they compile for every new number of
# rows, some hundreds of them: a bare model of transformers grows as much, until it has seen them all.
MOST_GROWTH = 0.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("adapters", nargs="*")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not args.adapters:
            make_adapter(Path(folder) / "adapter", "bfloat16")
        adapters = args.adapters or [f"{folder}/adapter"]
        with running_server([*adapters, "--max-body", str(MAX_BODY), "--max-n", "3"]) as (url, pid):
            result = soak(url, pid, args.requests, args.at_once, args.seed)
    flat = result["memory_mb"][-1] <= (1 + MOST_GROWTH) * result["memory_mb"][0]
    result["passed"] = flat and not (result["stuck"] or result["unexpected"] or any(result["left_over"].values()))
    RESULTS.write_text(json.dumps({**describe("cpu"), **result}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0 if result["passed"] else 1


def soak(url: str, pid: int, requests: int, at_once: int, seed: int) -> dict:
    """Ask as often to warm up, then in parts, and look at the server's memory between them; all are counted."""
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        models = [model["id"] for model in json.load(response)["data"]]
    clients = Soak(url, models, MAX_BODY, seed)
    total: dict = clients.run(requests, at_once)
    memory = [memory_at_rest(url, pid)]
    for _ in range(PARTS):
        for name, count in clients.run(requests // PARTS, at_once).items():
            total[name] += count
        memory.append(memory_at_rest(url, pid))
    responses = {name: count for name, count in metrics(url).items() if name.startswith("qadapter_http_responses")}
    return {"requests": 2 * requests, **total, "left_over": left_over(url), "memory_mb": memory, "responses": responses}


def memory_at_rest(url: str, pid: int) -> float:
    """Resident megabytes, once the server has let go of what the last clients left."""
    end = time.monotonic() + 30
    while any(left_over(url).values()) and time.monotonic() < end:
        time.sleep(0.2)
    return psutil.Process(pid).memory_info().rss / 1e6


def left_over(url: str) -> dict[str, float]:
    """What the server still holds."""
    counters = metrics(url)
    return {name: counters[f"qadapter_{name}"] for name in ("requests_waiting", "slots_used", "kv_bytes")}


if __name__ == "__main__":
    sys.exit(main())

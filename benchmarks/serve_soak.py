"""Two thousand requests of all kinds on `qadapter serve`: is each answered, refused or cancelled, and memory flat?

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
# In the first half libraries fill their caches of compiled products, one for each shape, up to a limit (see
# `qadapter.cli.serve`). What memory grows by in the second half, a thousand requests, would be a leak.
PARTS = 8
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
    flat = result["memory_mb"][-1] <= (1 + MOST_GROWTH) * result["memory_mb"][PARTS // 2]
    result["passed"] = flat and not (result["stuck"] or result["unexpected"] or any(result["left_over"].values()))
    RESULTS.write_text(json.dumps({**describe("cpu"), **result}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0 if result["passed"] else 1


def soak(url: str, pid: int, requests: int, at_once: int, seed: int) -> dict:
    """Ask in parts, and look at the server's memory between them."""
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        models = [model["id"] for model in json.load(response)["data"]]
    clients = Soak(url, models, MAX_BODY, seed)
    memory = [psutil.Process(pid).memory_info().rss / 1e6]
    total: dict = {}
    for _ in range(PARTS):
        for name, count in clients.run(requests // PARTS, at_once).items():
            total[name] = total[name] + count if name in total else count
        end = time.monotonic() + 30
        while any(left_over(url).values()) and time.monotonic() < end:
            time.sleep(0.2)
        memory.append(psutil.Process(pid).memory_info().rss / 1e6)
    responses = {name: count for name, count in metrics(url).items() if name.startswith("qadapter_http_responses")}
    return {"requests": requests, **total, "left_over": left_over(url), "memory_mb": memory, "responses": responses}


def left_over(url: str) -> dict[str, float]:
    """What the server still holds."""
    counters = metrics(url)
    return {name: counters[f"qadapter_{name}"] for name in ("requests_waiting", "slots_used", "kv_bytes")}


if __name__ == "__main__":
    sys.exit(main())

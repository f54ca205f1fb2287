"""Both policies on vLLM against the plain base on vLLM: tokens per second of a batch of eight.

    .venv-vllm/bin/python benchmarks/vllm_throughput.py       SmolLM2-135M-Instruct, bfloat16; some minutes on 2 cores

Both engines are up, one works at a time: rounds take turns on the same prompts, so that a slow minute of the machine
hits both alike. Eager and compiled. The result goes to `benchmarks/results/vllm-cpu.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.machine import describe
from harness.server import make_adapter

RESULTS = Path(__file__).parent / "results" / "vllm-cpu.json"
STREAMS, TOKENS, STRENGTH, BAR = 8, 64, 0.5, 0.5
PROMPT = "The following is a chapter of a long novel about a family that keeps a lighthouse. Chapter {number}\n\nThat"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    args = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as work:
        folders = exported(Path(work))
        modes = {mode: measured(folders, args.rounds, eager=mode == "eager") for mode in args.modes}
    figures = {f"{mode}_vs_plain": measurement["throughput_vs_plain"] for mode, measurement in modes.items()}
    result = describe("cpu")
    result["hardware"]["cores"] = len(os.sched_getaffinity(0))
    result["versions"]["vllm"] = vllm_version()
    result |= {
        "model": "SmolLM2-135M-Instruct",
        "dtype": "bfloat16",
        "streams": STREAMS,
        "tokens_per_stream": TOKENS,
        "strength": STRENGTH,
        "figures": figures,
        "bars": dict.fromkeys(figures, f">= {BAR}"),
        "met": {name: value >= BAR for name, value in figures.items()},
        "modes": modes,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return 0


def exported(work: Path) -> dict[str, str]:
    """The plain base's folder and an export of it with a random adapter: speed does not depend on what was learned."""
    from qadapter.cli.main import main as qadapter
    from qadapter.model import DEFAULT_MODEL
    from qadapter.model.loading import base_folder

    make_adapter(work / "adapter", "bfloat16")
    if qadapter(["export", str(work / "adapter"), "--to", "vllm", "--output", str(work / "out")]):
        raise SystemExit("the export failed")
    return {"plain": str(base_folder(DEFAULT_MODEL)), "both_policies": str(work / "out")}


def measured(folders: dict[str, str], rounds: int, *, eager: bool) -> dict[str, Any]:
    """Rounds of both engines in turn; ratios are of medians."""
    from vllm import LLM, SamplingParams

    engines = {
        name: LLM(folder, dtype="bfloat16", enforce_eager=eager, max_model_len=512, max_num_seqs=STREAMS)
        for name, folder in folders.items()
    }
    dials = {"plain": None, "both_policies": {"strength": STRENGTH}}
    prompts = [PROMPT.format(number=number) for number in range(STREAMS)]
    turns: dict[str, list[float]] = {name: [] for name in engines}
    for round_number in range(-1, rounds):
        for name, engine in engines.items():
            params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, extra_args=dials[name])
            started = time.perf_counter()
            outputs = engine.generate(prompts, params, use_tqdm=False)
            seconds = time.perf_counter() - started
            if sum(len(output.outputs[0].token_ids) for output in outputs) != STREAMS * TOKENS:
                raise SystemExit(f"{name} gave other than {STREAMS * TOKENS} tokens")
            if round_number >= 0:
                turns[name].append(STREAMS * TOKENS / seconds)
    for engine in engines.values():
        engine.llm_engine.engine_core.shutdown()
    medians = {name: statistics.median(speeds) for name, speeds in turns.items()}
    return {
        "throughput_vs_plain": medians["both_policies"] / medians["plain"],
        "tokens_per_second": medians,
        "turns": turns,
    }


def vllm_version() -> str:
    """The CPU build is a distribution of its own."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return f"{version('vllm-cpu')} (vllm-cpu)"


if __name__ == "__main__":
    raise SystemExit(main())

"""A training job in a process of its own: its peak memory is its own, and all of it is given back.

The job goes in as one line of JSON on the standard input, the facts come out as a file; `__main__.py` is the other
side. The input stays open: when this process goes away, for whatever reason, the child reads its end and stops too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from ..errors import QAdapterError
from .job import TrainingFacts, TrainingJob

FACTS_FILE = "training_facts.json"
_SHOWN_LINES = 15


def run_in_process(job: TrainingJob, log_file: Path) -> TrainingFacts:
    """Run a job in a new process.

    Args:
        job: the job.
        log_file: gets what the process prints, written anew.

    Raises:
        QAdapterError: the job failed; with the last lines of its log.
    """
    output_dir = Path(job.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    facts_file = output_dir / FACTS_FILE
    facts_file.unlink(missing_ok=True)
    # TRL refuses several GPUs in one process, and none of the methods would use them.
    first_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": first_gpu}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __package__],
            bufsize=0, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            # Where it has ended already, its exit status and its log say why.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(dataclasses.asdict(job)).encode() + b"\n")
            process.wait()
        finally:
            process.kill()
            process.stdin.close()
    if process.returncode or not facts_file.is_file():
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        raise QAdapterError(
            "\n".join([f"training {job.method} failed (exit status {process.returncode}):", *lines[-_SHOWN_LINES:]]),
            hint=f"all of its output is in {log_file}",
        )
    return TrainingFacts(**json.loads(facts_file.read_text(encoding="utf-8")))

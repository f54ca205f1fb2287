"""The process that `run_in_process` starts: one training job, read from the standard input."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

import transformers

from ..errors import QAdapterError
from .job import TrainingJob, run_job
from .process import FACTS_FILE


def main() -> int:
    """Run the job and write its facts; the exit status is 2 for an error of ours, whose text is printed."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    job = TrainingJob.from_json(json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    try:
        facts = run_job(job)
    except QAdapterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(dataclasses.asdict(facts), indent=2)
    (Path(job.output_dir) / FACTS_FILE).write_text(text + "\n", encoding="utf-8")
    return 0


def _stop_with_the_parent() -> None:
    # The descriptor itself: a thread inside Python's own buffer would hold its lock when the interpreter ends.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

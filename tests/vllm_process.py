"""One engine of vLLM in a process of its own. `answered`: it reads a job as JSON and writes its answers as JSON.

Job: {"folder", "options" of the engine, "requests": [{"prompt": token ids, "dials", "max_tokens"}]}. An engine leaves
global state behind, and its memory is not given back before the process ends.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOP = 20
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def answered(folder: Path, requests: list[dict[str, Any]], work: Path, **options: Any) -> list[dict[str, Any]]:
    """Run a job.

    Returns:
        For each request its tokens, and of each prompt token after the first and of each new token the log-probs of
        the `TOP` most likely ones, {token: log-prob}.
    """
    job = {"folder": str(folder), "options": options, "requests": requests}
    (work / "job.json").write_text(json.dumps(job))
    environment = os.environ | ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    result = subprocess.run(
        [sys.executable, __file__, str(work / "job.json"), str(work / "answers.json")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    answers: list[dict[str, Any]] = json.loads((work / "answers.json").read_text())
    return answers


@contextmanager
def serving(folder: Path, log: Path, *options: str, seconds: float = 300) -> Iterator[str]:
    """URL of vLLM's own OpenAI server on a folder, as `vllm serve FOLDER` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # `vllm serve` itself does not start from the CPU wheel: it asks for a distribution named vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *options]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + seconds
        while not _healthy(url):
            if server.poll() is not None or time.monotonic() > end:
                raise AssertionError(log.read_text()[-4000:])
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def posted(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer, also of a refusal."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def main(job_file: str, answers_file: str) -> None:
    from vllm import LLM, SamplingParams

    job = json.loads(Path(job_file).read_text())
    engine = LLM(job["folder"], skip_tokenizer_init=True, max_logprobs=TOP, **job["options"])
    outputs = engine.generate(
        [{"prompt_token_ids": request["prompt"]} for request in job["requests"]],
        [
            SamplingParams(
                temperature=0, max_tokens=request["max_tokens"], logprobs=TOP, detokenize=False, ignore_eos=True,
                prompt_logprobs=TOP if request.get("prompt_logprobs") else None,
                extra_args=request["dials"],
            )
            for request in job["requests"]
        ],
        use_tqdm=False,
    )  # fmt: skip
    answers = []
    for output in outputs:
        positions = [*(output.prompt_logprobs or [])[1:], *output.outputs[0].logprobs]
        likely = [{token: entry.logprob for token, entry in position.items()} for position in positions]
        answers.append({"tokens": list(output.outputs[0].token_ids), "logprobs": likely})
    Path(answers_file).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])

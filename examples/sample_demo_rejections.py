"""Sample the base model's own answers into the demo's preference files.

The chosen answers and most of the rejected ones were written by hand. In the rows whose `flaw` is "base answer" the
rejected answer is what the base model itself says: pairs that contain the model's own habits teach it to leave them.

    python examples/sample_demo_rejections.py src/qadapter/demo/preference.train.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from qadapter import QAdapterForCausalLM
from qadapter.generate import answer_prompts
from qadapter.model import DEFAULT_MODEL, load_base, load_base_tokenizer


def main(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = [row for row in rows if row["flaw"] == "base answer"]
    torch.manual_seed(0)
    tokenizer = load_base_tokenizer(DEFAULT_MODEL)
    model = QAdapterForCausalLM(load_base(DEFAULT_MODEL, dtype="bfloat16"))
    answers = answer_prompts(
        model,
        tokenizer,
        [row["prompt"] for row in wanted],
        strength=0.0,
        max_new_tokens=120,
        batch_size=40,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        on_batch=lambda done: print(f"{done}/{len(wanted)}", flush=True),
    )
    for row, answer in zip(wanted, answers, strict=True):
        row["rejected"][0]["content"] = answer.text
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

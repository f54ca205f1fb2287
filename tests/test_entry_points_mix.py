"""pipeline and the command line decode with the mixed policy: the log-probs of every step against the oracle.

Every forward that an entry point makes is recorded. Its distributions must be the oracle's for the text so far; that
the most likely tokens agree would prove little, since a wrong mixture agrees on nearly all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
import transformers
from conftest import PAPER, make_base, make_model, two_logits

from qadapter import QAdapterForCausalLM
from qadapter.cli.main import main


class Recorder:
    """Replaces `QAdapterForCausalLM.forward` by one that also keeps tokens and last log-probs of a batch of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model: QAdapterForCausalLM | None = None
        self.tokens: list[int] = []
        self.steps: list[tuple[int, torch.Tensor]] = []
        original: Callable[..., Any] = QAdapterForCausalLM.forward

        def forward(model: QAdapterForCausalLM, *args: Any, **kwargs: Any) -> Any:
            output = original(model, *args, **kwargs)
            self.model = model
            self.tokens += kwargs["input_ids"][0].tolist()
            self.steps.append((len(self.tokens), output.logits[0, -1].double().log_softmax(-1)))
            return output

        # generate() and pipeline look at the signature for the arguments that the model takes.
        forward.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
        monkeypatch.setattr(QAdapterForCausalLM, "forward", forward)

    def check(self, strength: float) -> None:
        assert self.model is not None
        assert len(self.steps) >= 4
        constants = self.model.constants
        z1, z0 = (z[0].double() for z in two_logits(self.model, input_ids=torch.tensor([self.tokens])))
        q = strength * oracles.q_function(constants.parametrization, z1, z0, constants.alpha_tilde)
        expected = oracles.policy_logp(q, z0, constants.alpha_0, constants.alpha_tilde)
        for seen, logp in self.steps:
            torch.testing.assert_close(logp, expected[seen - 1], rtol=1e-3, atol=2e-3)
        # The policies are far enough apart for the comparison to mean something.
        assert (oracles.log_softmax(z0) - expected).abs().max() > 0.1


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_pipeline(tokenizer, monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    model = make_model(constants=PAPER)
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    recorder = Recorder(monkeypatch)
    pipe("wa wb wc", max_new_tokens=6, do_sample=False, strength=strength)
    recorder.check(strength)


@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_command_line(
    tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, strength: float
) -> None:
    make_base().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = make_model(constants=PAPER)
    model.config.name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "a", tokenizer=tokenizer)
    recorder = Recorder(monkeypatch)
    argv = [command, str(tmp_path / "a"), "--strength", str(strength), "--max-new-tokens", "6", "--dtype", "float32"]
    if command == "generate":
        argv.append("wa wb wc")
    else:
        monkeypatch.setattr("sys.stdin", __import__("io").StringIO("wa wb wc\n"))
    assert main(argv) == 0
    recorder.check(strength)

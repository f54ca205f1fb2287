"""Exports stop where training ended an answer, also where the base's own generation config does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from exported import export

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.export.end_of_turn import added_stop_ids, stop_note

MakeArtifact = Callable[..., Path]
# The base's end of text, and the template's end of turn.
EOS, END_OF_TURN = 2, 5
NOTE = "Answers end with `<|im_end|>` (token 5)"


@pytest.fixture
def base_of(make_artifact: MakeArtifact, tmp_path: Path) -> Callable[[object], Path]:
    """A copy of the base whose generation config has these stop tokens, and more that stays as it is."""

    def make(eos_token_id: object) -> Path:
        base = Path(shutil.copytree(make_artifact().parent / "base", tmp_path / f"base {eos_token_id}"))
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_token_id, "min_p": 0.1}))
        return base

    return make


def written(folder: Path) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


@pytest.mark.parametrize("target", ["merged", "vllm"])
@pytest.mark.parametrize(
    ("configured", "expected"),
    [(EOS, [EOS, END_OF_TURN]), ([EOS, 7], [EOS, END_OF_TURN, 7]), ([END_OF_TURN, EOS], [END_OF_TURN, EOS])],
)
def test_the_generation_config_stops_at_both(
    target: str,
    configured: object,
    expected: list[int],
    base_of: Callable[[object], Path],
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    folder = export(make_artifact(), target, tmp_path / "out", "--base", base_of(configured))
    assert written(folder)["eos_token_id"] == expected
    assert written(folder)["min_p"] == 0.1
    assert NOTE not in (folder / "README.md").read_text()


def test_a_base_without_generation_config(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    base = Path(shutil.copytree(make_artifact().parent / "base", tmp_path / "base"))
    (base / "generation_config.json").unlink()
    for target in ("merged", "vllm"):
        folder = export(make_artifact(), target, tmp_path / target, "--base", base)
        assert written(folder)["eos_token_id"] == [EOS, END_OF_TURN]


def test_the_merged_model_ends_its_answer(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    folder = export(make_artifact(), "merged", tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = torch.tensor([[1, 9, 10, 11]])

    def always(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(-1, torch.tensor([END_OF_TURN]), 1e4)

    model.get_output_embeddings().register_forward_hook(always)
    assert model.generate(prompt, max_new_tokens=8, do_sample=False)[0].tolist() == [1, 9, 10, 11, END_OF_TURN]


def test_a_lora_alone_names_it_in_its_card(
    base_of: Callable[[object], Path], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder = export(make_artifact(), "peft", tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert NOTE in card
    assert f"eos_token_id=[{EOS}, {END_OF_TURN}]" in card
    stops = export(make_artifact(), "peft", tmp_path / "stops", "--base", base_of([EOS, END_OF_TURN]))
    assert NOTE not in (stops / "README.md").read_text()


def test_without_a_chat_template_nothing_is_added(make_artifact: MakeArtifact) -> None:
    model, tokenizer = QAdapterForCausalLM.from_pretrained(make_artifact()), load_tokenizer(make_artifact())
    assert added_stop_ids(model, tokenizer) == [EOS, END_OF_TURN]
    tokenizer.chat_template = None
    assert added_stop_ids(model, tokenizer) is None
    assert stop_note(model, tokenizer) == ""

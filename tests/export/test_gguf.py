"""`gguf`, with converters that check what they are given and say so in the file they write."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PAPER
from peft import LoraConfig

from qadapter.cli.main import main
from qadapter.errors import QAdapterError
from qadapter.export import source
from qadapter.export.gguf import check_rope_base

MakeArtifact = Callable[..., Path]
CONVERTERS = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py")
# As llama.cpp's, with the arguments that we use.
CONVERTER = """
import argparse, json, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("input", type=pathlib.Path)
parser.add_argument("--base", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
args = parser.parse_args()
from safetensors import safe_open
lora = pathlib.Path(sys.argv[0]).name == "convert_lora_to_gguf.py"
assert (args.base is not None) == lora
described = args.base if lora else args.input
config = json.loads((described / "config.json").read_text())
assert (described / "tokenizer.json").is_file()
with safe_open(args.input / ("adapter_model.safetensors" if lora else "model.safetensors"), "np") as file:
    names = sorted(file.keys())
facts = {"outtype": args.outtype, "architecture": config["architectures"][0], "lora": lora, "tensors": names}
facts["rope_theta"] = config["rope_theta"]
args.outfile.write_text(json.dumps(facts))
"""


@pytest.fixture
def llama_cpp(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    for name in CONVERTERS:
        (folder / name).write_text(f"#!{sys.executable}\n{CONVERTER}", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def run(adapter: Path, tmp_path: Path, *flags: object) -> int:
    return main(["export", str(adapter), "--to", "gguf", "--output", str(tmp_path / "out"), *map(str, flags)])


@pytest.mark.parametrize("form", ["merged", "lora"])
def test_the_converter_gets_what_it_needs(
    form: str, make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path
) -> None:
    assert run(make_artifact(), tmp_path, "--form", form, "--outtype", "q8_0", "--llama-cpp", llama_cpp) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", f"{form}-q8_0.gguf", "qadapter_export.json"]
    facts = json.loads((out / f"{form}-q8_0.gguf").read_text())
    assert (facts["outtype"], facts["architecture"], facts["lora"]) == ("q8_0", "LlamaForCausalLM", form == "lora")
    assert facts["rope_theta"] == 10000.0  # where older converters look
    assert any("lora_A" in name for name in facts["tensors"]) == (form == "lora")
    record = json.loads((out / "qadapter_export.json").read_text())
    assert (record["form"], record["outtype"], record["exact"]) == (form, "q8_0", False)
    assert f"{form}-q8_0.gguf" in (out / "README.md").read_text()
    assert "Answers end with `<|im_end|>` (token 5)" in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama.cpp", "out"]


def test_of_a_base_in_fewer_bits_the_converter_sees_the_plain_one(
    make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra: quantized) is not installed")
    script = llama_cpp / "convert_lora_to_gguf.py"
    script.write_text(script.read_text() + "assert 'quantization_config' not in config\n")
    assert run(make_artifact(), tmp_path, "--form", "lora", "--llama-cpp", llama_cpp, "--load-in", "4bit") == 0
    assert json.loads((tmp_path / "out" / "qadapter_export.json").read_text())["loaded_in"] == "4bit"


@pytest.mark.parametrize("form", ["merged", "lora"])
def test_a_file_is_exact_only_where_training_was_in_full_precision_and_on_the_base_it_names(
    form: str, make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Path(shutil.copytree(make_artifact(), tmp_path / "adapter"))
    saved = json.loads((adapter / "qadapter_config.json").read_text())

    def exported() -> tuple[bool, str]:
        flags = ("--form", form, "--outtype", "f32", "--llama-cpp", llama_cpp, "--overwrite")
        assert run(adapter, tmp_path, *flags) == 0
        record = json.loads((tmp_path / "out" / "qadapter_export.json").read_text())
        return record["exact"], (tmp_path / "out" / "README.md").read_text()

    assert exported()[0] is True
    monkeypatch.setattr(source, "PACKAGE_COPY_SHA256", saved["base"]["weights_sha256"])
    exact, card = exported()
    # The merged file has the weights of training in it; beside a LoRA the reader puts those of the name.
    assert (exact, "copy of its base from the package index" in card) == ((True, False), (False, True))[form == "lora"]
    monkeypatch.undo()
    saved["base"]["load_in"] = "4bit"
    (adapter / "qadapter_config.json").write_text(json.dumps(saved))
    exact, card = exported()
    assert exact is False
    assert "It was trained on the base in 4bit" in card


def test_another_strength_is_measured(
    make_artifact: MakeArtifact, llama_cpp: Path, prompts_file: Path, tmp_path: Path
) -> None:
    flags = ("--strength", 0.5, "--prompts", prompts_file, "--llama-cpp", llama_cpp)
    assert run(make_artifact(), tmp_path, *flags) == 0
    record = json.loads((tmp_path / "out" / "qadapter_export.json").read_text())
    assert record["distance"]["kl"] > 0
    assert "before the conversion to GGUF" in (tmp_path / "out" / "README.md").read_text()


def test_an_installed_converter_is_found(
    make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(llama_cpp), prepend=os.pathsep)
    assert run(make_artifact(), tmp_path) == 0
    assert (tmp_path / "out" / "merged-auto.gguf").is_file()


def test_without_a_converter_it_says_what_to_do(
    make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(make_artifact(), tmp_path) == 2
    said = capsys.readouterr().err
    assert "convert_hf_to_gguf.py, which is not on the PATH" in said
    assert "--llama-cpp DIR" in said
    assert run(make_artifact(), tmp_path, "--form", "lora", "--llama-cpp", tmp_path) == 2
    assert "there is no convert_lora_to_gguf.py" in capsys.readouterr().err


def test_a_converter_that_fails_leaves_nothing(
    make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = llama_cpp / "convert_hf_to_gguf.py"
    for code, said in (
        ("import sys; sys.exit('Model FooForCausalLM is not supported')", "Model FooForCausalLM is not supported"),
        ("", "reported success, but there is no merged-auto.gguf"),
    ):
        script.write_text(code)
        assert run(make_artifact(), tmp_path, "--llama-cpp", llama_cpp) == 2
        assert said in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["llama.cpp"]


def test_a_lora_that_llama_cpp_would_weigh_wrongly(
    make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = LoraConfig(r=4, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    assert run(make_artifact(lora=lora), tmp_path, "--form", "lora", "--llama-cpp", llama_cpp) == 2
    said = capsys.readouterr().err
    assert "does not know use_rslora" in said
    assert "--form merged" in said


def test_a_mixture_is_refused(
    make_artifact: MakeArtifact, llama_cpp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(make_artifact(constants=PAPER), tmp_path, "--llama-cpp", llama_cpp) == 2
    assert "--to gguf would be another policy" in capsys.readouterr().err


def test_a_file_with_another_rotary_base_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF...llama.rope.freq_base" + struct.pack("<If", 6, 100000.0) + b"...")
    check_rope_base(file, 100000.0)
    check_rope_base(file, None)
    with pytest.raises(QAdapterError, match="has the base 100000; the model's is 500000") as caught:
        check_rope_base(file, 500000.0)
    assert "newer llama.cpp" in str(caught.value)
    file.write_bytes(b"GGUF...llama.rope.dimension_count...")
    check_rope_base(file, 10000.0)
    with pytest.raises(QAdapterError, match="has the base 10000"):
        check_rope_base(file, 100000.0)

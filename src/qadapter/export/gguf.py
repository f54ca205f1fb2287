"""A GGUF file for llama.cpp, made by llama.cpp's own converter from the merged model or the plain LoRA.

The converter is a program and no package: it is called, not imported.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from peft import PeftConfig
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError, QAdapterError
from ..model import QAdapterForCausalLM
from ..model.artifact_folder import adapter_folder
from ..model.quantization import load_in_of
from .arguments import GgufArguments
from .card import write_card
from .end_of_turn import stop_note
from .merged import write_model
from .new_folder import new_folder
from .peft import write_lora
from .single import check_single_policy
from .source import Source

logger = logging.getLogger(__name__)

_CONVERTERS = {"merged": "convert_hf_to_gguf.py", "lora": "convert_lora_to_gguf.py"}
_LAST_WORDS = 1500
# Bytes that hold a model's own metadata; the tokenizer's come after them.
_METADATA = 2**20
# What llama.cpp takes where a file does not say.
_ASSUMED_BASE = 10000.0


def export(source: Source, args: GgufArguments, output: str, *, overwrite: bool) -> None:
    """Write one .gguf file and a card.

    Raises:
        ConfigError: no converter, a policy that is no single model, or `output` is in use.
        QAdapterError: the converter failed; its last words are in the text.
    """
    command = _converter(_CONVERTERS[args.form], args.llama_cpp)
    check_single_policy(source.constants, "gguf")
    if args.form == "lora":
        _check_lora(PeftConfig.from_pretrained(str(adapter_folder(source.directory))))
    with new_folder(output, overwrite) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as work:
        _convert([*command, "--help"], _CONVERTERS[args.form])  # what it misses shows before the model is loaded
        plain, file = Path(work) / "plain", folder / f"{args.form}-{args.outtype}.gguf"
        plain.mkdir()
        loaded_in, rounded = None, args.outtype != "f32"
        if args.form == "merged":
            distance, note = write_model(source, args, plain, max_shard_size="5GB", rounded=rounded)
            described = plain
        else:
            model, tokenizer, distance = write_lora(source, args, plain, rounded=rounded)
            loaded_in, note = load_in_of(model.base), stop_note(model, tokenizer)
            described = _base_files(model, tokenizer, Path(work) / "base")
            command += ["--base", str(described)]
        theta = _name_rope_as_before(described)
        logger.info("running %s", _CONVERTERS[args.form])
        _convert([*command, str(plain), "--outfile", str(file), "--outtype", args.outtype], _CONVERTERS[args.form])
        if not file.is_file():
            raise QAdapterError(f"{_CONVERTERS[args.form]} reported success, but there is no {file.name}.")
        if args.form == "merged":
            check_rope_base(file, theta)
        write_card(
            folder, source, target="gguf", strength=args.strength, what=f"GGUF, {args.outtype}", distance=distance,
            how_to_load=_how_to_load(file.name, args.form) + note, form=args.form, outtype=args.outtype,
            brings_base=args.form == "merged", rounded=rounded, loaded_in=loaded_in,
        )  # fmt: skip


def _converter(script: str, llama_cpp: str | None) -> list[str]:
    """The command's beginning: the script of a checkout with this Python, or an installed one as it is.

    Raises:
        ConfigError: it is not there.
    """
    if llama_cpp is not None:
        path = Path(llama_cpp) / script
        if not path.is_file():
            raise ConfigError(
                f"--llama-cpp {llama_cpp}: there is no {script}.", hint="name the folder of a checkout of llama.cpp"
            )
        return [sys.executable, str(path)]
    installed = shutil.which(script)
    if installed is None:
        raise ConfigError(
            f"--to gguf needs llama.cpp's {script}, which is not on the PATH.",
            hint="name a checkout of llama.cpp with --llama-cpp DIR, or export --to merged and convert that elsewhere",
        )
    return [installed]


def _check_lora(config: PeftConfig) -> None:
    """llama.cpp scales every product by one `lora_alpha` over its rank; any other LoRA it gets wrong in silence."""
    for option in ("use_rslora", "use_dora", "alpha_pattern", "lora_bias"):
        if getattr(config, option):
            raise ConfigError(
                f"--form lora: llama.cpp does not know {option}, which this adapter has.", hint="use --form merged"
            )


def _base_files(model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """What the LoRA converter needs of the base: config and tokenizer, no weights, and not how they are held here."""
    config = copy.deepcopy(model.base.config)
    config.__dict__.pop("quantization_config", None)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _name_rope_as_before(folder: Path) -> float | None:
    """Add the fields in which transformers 4 wrote the rotary embedding to a config.json, for converters that use it.

    Returns:
        The base of the frequencies, where the config has one for all layers.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return rope.get("rope_theta")


def check_rope_base(file: Path, theta: float | None) -> None:
    """Refuse a file with another base of the rotary frequencies: it would load, and answer nonsense.

    Converters older than transformers 5 do not find it under its new name, and leave it out without a word.

    Args:
        file: GGUF; its metadata stand at the beginning, a key before its type (6: float32) and its value.
        theta: the base; None where there is none to compare.

    Raises:
        QAdapterError: the file has another one, or none where llama.cpp would then assume another.
    """
    with file.open("rb") as content:
        _, key, rest = content.read(_METADATA).partition(b".rope.freq_base")
    written = struct.unpack("<If", rest[:8])[1] if key else _ASSUMED_BASE
    if theta is not None and not math.isclose(written, theta, rel_tol=1e-6):
        raise QAdapterError(
            f"the converter wrote a file whose rotary embedding has the base {written:g}; the model's is {theta:g}.",
            hint="it is older than transformers 5, and misses what that renamed: take a newer llama.cpp",
        )


def _convert(command: list[str], script: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        words = (result.stderr.strip() or result.stdout.strip())[-_LAST_WORDS:]
        raise QAdapterError(
            f"{script} failed with status {result.returncode}:\n{words}",
            hint="the converter may miss packages (llama.cpp's requirements.txt), or may not know this model",
        )


def _how_to_load(file: str, form: str) -> str:
    flags = f"-m {file}" if form == "merged" else f"-m BASE.gguf --lora {file}"
    return f"""```
llama-cli {flags}
```

What is said above is of the weights before the conversion to GGUF, whose rounding comes on top."""

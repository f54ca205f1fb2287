"""A folder that vLLM serves with both policies: the exact mixture, by the plug-in of the extra `vllm`.

    FOLDER/config.json             the base's, with our architecture and the section `qadapter`
    FOLDER/model*.safetensors      links to the base's weights, or copies
    FOLDER/adapter/                PEFT's files, as in the artifact
    FOLDER/tokenizer*.json ...     the tokenizer; the base's generation config, which also stops at the end of a turn

Writing it needs no vLLM. Its model type is unknown to transformers, which would else load the base alone in silence.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import ArtifactError, UnsupportedModelError
from ..model import QAdapterForCausalLM
from ..model.artifact_folder import ADAPTER_FOLDER, adapter_folder
from ..model.loading import base_folder
from ..vllm.servable import OTHER_WAYS, check_base, check_factors, check_lora
from ..vllm.served_policy import SECTION, ServedPolicy
from .arguments import VllmArguments
from .card import write_card
from .end_of_turn import GENERATION_CONFIG, added_stop_ids, write_stop_ids
from .new_folder import new_folder
from .source import Source

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


def export(source: Source, args: VllmArguments, output: str, *, overwrite: bool) -> None:
    """Write the folder.

    Raises:
        UnsupportedModelError: a base or a LoRA that the plug-in does not serve.
        ArtifactError: a damaged artifact, or one that belongs to another base.
        ConfigError: constants that leave no policy at strength 0, or `output` is in use.
    """
    check_base({"model_type": source.config["base"]["model_type"]})
    policy = served_policy_of(source, args.strength)
    with new_folder(output, overwrite) as folder:
        # Loading checks that the base is the one of training, and that no factor is missing.
        model, tokenizer = source.load()
        files = base_folder(model.base.config.name_or_path, revision=getattr(model.base.config, "_commit_hash", None))
        write_config(files, policy, model, folder)
        write_stop_ids(folder, added_stop_ids(model, tokenizer))
        take_weights(files, folder, copy=args.copy_weights)
        shutil.copytree(source.directory / ADAPTER_FOLDER, folder / ADAPTER_FOLDER)
        tokenizer.save_pretrained(folder)
        write_card(
            folder, source, target="vllm", strength=args.strength, what="both policies, for vLLM", distance=None,
            brings_base=True, dial="of a request that sets none is at", how_to_load=_HOW_TO_LOAD,
        )  # fmt: skip


def served_policy_of(source: Source, strength: float) -> ServedPolicy:
    """What the model must know besides weights, from the artifact's files.

    Raises:
        ArtifactError: one is missing or damaged.
        UnsupportedModelError: a LoRA that is not served.
    """
    adapter = adapter_folder(source.directory)
    try:
        rank, scaling = check_lora(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            names = list(file.keys())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(f"{adapter} cannot be read as a LoRA: {error}") from error
    return ServedPolicy(source.constants, strength, rank, scaling, check_factors(names), len(names))


def write_config(base: Path, policy: ServedPolicy, model: QAdapterForCausalLM, folder: Path) -> None:
    """config.json, and the generation config where the base has one."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    family = check_base(config)
    if config.get("architectures") != [family.architecture]:
        raise UnsupportedModelError(
            f"--to vllm: the base is a {config.get('architectures')}, not a {family.architecture}.", hint=OTHER_WAYS
        )
    config |= {
        "architectures": [family.served],
        "model_type": family.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        SECTION: policy.section(),
    }
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if (generation := base / GENERATION_CONFIG).is_file():
        shutil.copyfile(generation, folder / generation.name)


def take_weights(base: Path, folder: Path, *, copy: bool) -> None:
    """Link or copy the base's weight files and their index.

    Args:
        base: the base's folder.
        folder: of the export.
        copy: a folder of links is small, but belongs to this machine.
    """
    if (base / _INDEX).is_file():
        shutil.copyfile(base / _INDEX, folder / _INDEX)
        names = sorted(set(json.loads((base / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [_SINGLE]
    for name in names:
        weights = (base / name).resolve()
        if copy:
            shutil.copyfile(weights, folder / name)
        else:
            (folder / name).symlink_to(weights)


_HOW_TO_LOAD = """```bash
# In a clone of the repository of qadapter, which has the plug-in:
pip install "vllm>=0.32" "peft>=0.21" "accelerate>=1.10" "datasets>=4.0" && pip install --no-deps .
# In this folder:
vllm serve . --served-model-name mine
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
  "model": "mine", "messages": [{"role": "user", "content": "How do I keep basil fresh?"}],
  "vllm_xargs": {"strength": 0.5}}'
```

Only vLLM with that plug-in runs this folder."""
